-- How many readings a device has in a time, and from when to when.
SELECT COUNT(*) AS readings, MIN(ts) AS oldest, MAX(ts) AS newest
FROM readings
WHERE device_id = $device AND ts >= $since AND ts < $until
