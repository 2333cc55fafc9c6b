-- How many numbers are missing in devices' own counts. A count that starts again, or jumps by more than $most, has lost
-- nothing. Readings that a device sent late, in another order than it counted, make this an estimate.
SELECT COALESCE(SUM(seq - before - 1), 0) AS missing
FROM (
  SELECT seq, LAG(seq) OVER (PARTITION BY device_id ORDER BY ts, seq) AS before
  FROM readings
  WHERE ts >= $since AND ts < $until AND seq IS NOT NULL AND ($device = '' OR device_id = $device)
) AS counted
WHERE seq - before BETWEEN 2 AND $most
