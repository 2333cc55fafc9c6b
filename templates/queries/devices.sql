-- Devices, worst first: by episodes that are not artifacts (a sensor's fault), then by peak score.
SELECT
  r.device_id,
  COALESCE(o.episodes, 0) AS episodes,
  COALESCE(o.artifacts, 0) AS artifacts,
  COALESCE(o.outliers, 0) AS outliers,
  o.peak_score,
  o.news2,
  o.last_outlier,
  r.readings,
  r.last_seen
FROM (
  SELECT device_id, COUNT(*) AS readings, MAX(ts) AS last_seen
  FROM readings
  WHERE ts >= $since AND ts < $until
  GROUP BY device_id
) AS r
LEFT JOIN (
  SELECT
    device_id,
    COUNT(DISTINCT CASE WHEN NOT artifact THEN episode END) AS episodes,
    COUNT(DISTINCT CASE WHEN artifact THEN episode END) AS artifacts,
    COUNT(*) AS outliers,
    MAX(score) AS peak_score,
    MAX(news2) AS news2,
    MAX(ts) AS last_outlier
  FROM outliers
  WHERE ts >= $since AND ts < $until
  GROUP BY device_id
) AS o ON o.device_id = r.device_id
ORDER BY episodes DESC, peak_score DESC NULLS LAST, artifacts DESC, device_id
