-- Readings and devices in a time, and how many of the devices sent nothing from $quiet on.
SELECT
  COALESCE(SUM(readings), 0) AS readings,
  COUNT(*) AS devices,
  COALESCE(SUM(CASE WHEN last_seen < $quiet THEN 1 ELSE 0 END), 0) AS silent
FROM (
  SELECT device_id, COUNT(*) AS readings, MAX(ts) AS last_seen
  FROM readings
  WHERE ts >= $since AND ts < $until AND ($device = '' OR device_id = $device)
  GROUP BY device_id
) AS seen
