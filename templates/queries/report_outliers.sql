-- The outliers of one device: first the worst of every episode, then the second of every one, and so on, so that those
-- that are left out for want of room are never all of one episode.
SELECT ts, score, cause, vital, artifact, news2, why
FROM (
  SELECT
    ts, score, cause, vital, artifact, news2, why,
    ROW_NUMBER() OVER (PARTITION BY episode, artifact ORDER BY score DESC, ts, cause) AS place
  FROM outliers
  WHERE device_id = $device AND ts >= $since AND ts < $until
) AS ranked
ORDER BY place, score DESC, ts, cause
