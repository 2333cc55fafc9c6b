-- Every reading of the time that a file of what was sent covers.
SELECT device_id, ts, heart_rate, systolic, diastolic, temperature, spo2, respiratory_rate, arrived_at, seq
FROM readings
WHERE ts >= $since AND ts < $until
