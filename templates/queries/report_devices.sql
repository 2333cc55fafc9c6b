-- Devices, worst first, with what their worst outlier was: by episodes that are not artifacts (a sensor's fault), then
-- by the score of that outlier. An episode about the sensor and one about the body may begin together, and are two.
SELECT
  r.device_id,
  COALESCE(o.episodes, 0) AS episodes,
  COALESCE(o.artifacts, 0) AS artifacts,
  o.peak_score,
  o.news2,
  r.readings,
  r.last_seen,
  o.last_outlier,
  o.cause,
  o.why
FROM (
  SELECT device_id, COUNT(*) AS readings, MAX(ts) AS last_seen
  FROM readings
  WHERE ts >= $since AND ts < $until AND ($device = '' OR device_id = $device)
  GROUP BY device_id
) AS r
LEFT JOIN (
  SELECT
    device_id,
    COUNT(DISTINCT CASE WHEN NOT artifact THEN episode END) AS episodes,
    COUNT(DISTINCT CASE WHEN artifact THEN episode END) AS artifacts,
    MAX(CASE WHEN place = 1 THEN score END) AS peak_score,
    MAX(news2) AS news2,
    MAX(ts) AS last_outlier,
    MAX(CASE WHEN place = 1 THEN cause END) AS cause,
    MAX(CASE WHEN place = 1 THEN why END) AS why
  FROM (
    -- What is about the body comes before what is about the sensor.
    SELECT
      device_id, ts, episode, score, artifact, news2, cause, why,
      ROW_NUMBER() OVER (
        PARTITION BY device_id ORDER BY CASE WHEN artifact THEN 1 ELSE 0 END, score DESC, ts DESC, cause
      ) AS place
    FROM outliers
    WHERE ts >= $since AND ts < $until AND ($device = '' OR device_id = $device)
  ) AS ranked
  GROUP BY device_id
) AS o ON o.device_id = r.device_id
ORDER BY peak_score DESC NULLS LAST, episodes DESC, artifacts DESC, device_id
