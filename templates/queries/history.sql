-- The newest $newest readings of one device, newest last, with what the model said of those that are outliers.
SELECT
  ts, heart_rate, systolic, diastolic, temperature, spo2, respiratory_rate,
  score, cause, artifact, news2, why, episode, arrived_at, seq, device_id
FROM (
  SELECT
    r.device_id, r.ts, r.heart_rate, r.systolic, r.diastolic, r.temperature, r.spo2, r.respiratory_rate,
    r.arrived_at, r.seq, o.score, o.cause, o.artifact, o.news2, o.why, o.episode,
    ROW_NUMBER() OVER (ORDER BY r.ts DESC, r.arrived_at DESC, r.seq DESC NULLS LAST) AS place
  FROM readings AS r
  LEFT JOIN (
    -- One verdict a reading: a reading that was sent twice must not be shown four times.
    SELECT
      device_id, ts, arrived_at, seq, score, cause, artifact, news2, why, episode,
      ROW_NUMBER() OVER (PARTITION BY ts, arrived_at, seq ORDER BY score DESC) AS copy
    FROM outliers
    WHERE device_id = $device AND ts >= $since AND ts < $until
  ) AS o
    ON o.copy = 1 AND o.device_id = r.device_id AND o.ts = r.ts AND o.arrived_at = r.arrived_at
      AND COALESCE(o.seq, -1) = COALESCE(r.seq, -1)
  WHERE r.device_id = $device AND r.ts >= $since AND r.ts < $until
) AS placed
WHERE place <= $newest
ORDER BY place DESC
