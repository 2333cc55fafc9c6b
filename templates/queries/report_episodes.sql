-- The episodes of one device, newest first; cause, vital and reason are those of the highest score. One that began
-- before $since keeps its true start.
SELECT
  episode AS started_at,
  MAX(ts) AS ended_at,
  artifact,
  MAX(score) AS peak_score,
  MAX(CASE WHEN place = 1 THEN cause END) AS cause,
  MAX(CASE WHEN place = 1 THEN vital END) AS vital,
  MAX(CASE WHEN place = 1 THEN why END) AS why
FROM (
  SELECT
    ts, episode, score, artifact, cause, vital, why,
    ROW_NUMBER() OVER (PARTITION BY episode, artifact ORDER BY score DESC, ts, cause) AS place
  FROM outliers
  WHERE device_id = $device AND ts >= $since AND ts < $until
) AS ranked
GROUP BY episode, artifact
ORDER BY ended_at DESC, started_at, artifact
