-- Episodes by the day on which they began and by the cause of their highest score, newest day first.
SELECT day, cause, artifact, COUNT(*) AS episodes
FROM (
  SELECT
    DATE_TRUNC('day', episode) AS day, artifact, cause,
    ROW_NUMBER() OVER (PARTITION BY device_id, episode, artifact ORDER BY score DESC, ts, cause) AS place
  FROM outliers
  WHERE ts >= $since AND ts < $until AND ($device = '' OR device_id = $device)
) AS ranked
WHERE place = 1
GROUP BY day, cause, artifact
ORDER BY day DESC, cause, artifact
