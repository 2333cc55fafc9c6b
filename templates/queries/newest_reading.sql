-- The span of the readings, of one device or of all, and how many there are.
SELECT MIN(ts) AS oldest, MAX(ts) AS newest, COUNT(*) AS readings
FROM readings
WHERE $device = '' OR device_id = $device
