-- What was no reading, by reason, most frequent first; by arrival, as it has no other time.
SELECT reason, COUNT(*) AS packets
FROM dead_letters
WHERE arrived_at >= $since AND arrived_at < $until AND ($device = '' OR device_id = $device)
GROUP BY reason
ORDER BY packets DESC, reason
