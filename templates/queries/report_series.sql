-- The readings of one device in order of time, each with whether the model took it for an outlier.
SELECT
  r.ts, r.heart_rate, r.systolic, r.diastolic, r.temperature, r.spo2, r.respiratory_rate,
  CASE WHEN o.ts IS NULL THEN 0 ELSE 1 END AS outlying
FROM readings AS r
LEFT JOIN (
  SELECT DISTINCT ts
  FROM outliers
  WHERE device_id = $device AND ts >= $since AND ts < $until
) AS o ON o.ts = r.ts
WHERE r.device_id = $device AND r.ts >= $since AND r.ts < $until
ORDER BY r.ts, r.arrived_at, r.seq NULLS LAST
