-- Episodes, newest first: the outliers of one device that belong together. Cause, vital and reason are those of the
-- reading with the highest score; an episode that began before $since keeps its true start.
SELECT
  device_id,
  episode AS started_at,
  MAX(ts) AS ended_at,
  COUNT(*) AS readings,
  MAX(score) AS peak_score,
  MAX(CASE WHEN place = 1 THEN ts END) AS peak_at,
  MAX(CASE WHEN place = 1 THEN cause END) AS cause,
  MAX(CASE WHEN place = 1 THEN vital END) AS vital,
  MAX(CASE WHEN place = 1 THEN usual END) AS usual,
  MAX(CASE WHEN place = 1 THEN observed END) AS observed,
  MAX(CASE WHEN place = 1 THEN artifact END) AS artifact,
  MAX(news2) AS news2,
  MAX(CASE WHEN place = 1 THEN why END) AS why
FROM (
  SELECT
    device_id, ts, episode, score, artifact, cause, vital, usual, observed, why, news2,
    ROW_NUMBER() OVER (PARTITION BY device_id, episode ORDER BY score DESC, ts) AS place
  FROM outliers
  WHERE ts >= $since AND ts < $until AND ($device = '' OR device_id = $device)
) AS ranked
GROUP BY device_id, episode
HAVING MAX(score) >= $min_score AND ($cause = '' OR MAX(CASE WHEN place = 1 THEN cause END) = $cause)
ORDER BY ended_at DESC, device_id, started_at
