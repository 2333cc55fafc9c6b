-- Every reading once: closed days from their runs, and what has landed since, at or above each partition's cut.
-- `dt` is the day in which a reading is stored; it is null as long as that day is open.
SELECT device_id, ts, heart_rate, systolic, diastolic, temperature, spo2, respiratory_rate, arrived_at, seq, dt
FROM readings_days
WHERE dt <= $upto
UNION ALL
SELECT
  l.device_id, l.ts, l.heart_rate, l.systolic, l.diastolic, l.temperature, l.spo2, l.respiratory_rate,
  l.arrived_at, l.seq, CAST(NULL AS varchar) AS dt
FROM landing AS l
LEFT JOIN cuts AS c ON c.n = $n AND c.chain = l.chain AND c."partition" = l."partition"
WHERE l.reason IS NULL
  AND l."first" >= COALESCE(c."first", 0)
  AND l."offset" >= COALESCE(c."offset", 0)
