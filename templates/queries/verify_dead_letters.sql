-- What arrived since then from a known device and is no reading.
SELECT device_id, reason, payload
FROM dead_letters
WHERE device_id IS NOT NULL AND arrived_at >= $since
