-- Outlying readings, newest first.
SELECT
  device_id, ts, score, cause, vital, usual, observed, artifact, news2, risk, why,
  heart_rate, systolic, diastolic, temperature, spo2, respiratory_rate,
  c_heart_rate, c_systolic, c_diastolic, c_temperature, c_spo2, c_respiratory_rate,
  episode, arrived_at, seq, model
FROM outliers
WHERE ts >= $since AND ts < $until
  AND ($device = '' OR device_id = $device)
  AND ($cause = '' OR cause = $cause)
  AND score >= $min_score
ORDER BY ts DESC, device_id, arrived_at, seq NULLS LAST
