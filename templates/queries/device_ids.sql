-- The name of every device.
SELECT DISTINCT device_id
FROM readings
