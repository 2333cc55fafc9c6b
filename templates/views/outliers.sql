-- Every outlier once: closed days from their runs, and what the model in force has found at or above each
-- partition's cut. `dt` is the day in which it is stored; it is null as long as that day is open.
SELECT
  device_id, ts, episode, score, artifact, cause, vital, usual, observed, why,
  c_heart_rate, c_systolic, c_diastolic, c_temperature, c_spo2, c_respiratory_rate, risk, news2,
  heart_rate, systolic, diastolic, temperature, spo2, respiratory_rate, arrived_at, seq, model, dt
FROM outliers_days
WHERE dt <= $upto
UNION ALL
SELECT
  s.device_id, s.ts, s.episode, s.score, s.artifact, s.cause, s.vital, s.usual, s.observed, s.why,
  s.c_heart_rate, s.c_systolic, s.c_diastolic, s.c_temperature, s.c_spo2, s.c_respiratory_rate, s.risk, s.news2,
  s.heart_rate, s.systolic, s.diastolic, s.temperature, s.spo2, s.respiratory_rate, s.arrived_at, s.seq, s.model,
  CAST(NULL AS varchar) AS dt
FROM scored AS s
LEFT JOIN cuts AS c ON c.n = $n AND c.chain = s.chain AND c."partition" = s."partition"
WHERE s.model = $model
  AND s."first" >= COALESCE(c."first", 0)
  AND s."offset" >= COALESCE(c."offset", 0)
