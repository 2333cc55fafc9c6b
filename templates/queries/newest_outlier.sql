-- When the newest outlier was that a filter lets through, and how many there are.
SELECT MAX(ts) AS newest, COUNT(*) AS outliers
FROM outliers
WHERE ts < $until
  AND ($device = '' OR device_id = $device)
  AND ($cause = '' OR cause = $cause)
  AND score >= $min_score
