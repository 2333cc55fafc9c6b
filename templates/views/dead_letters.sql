-- Whatever arrived and is not a reading, once, with the reason and the bytes that came.
-- `dt` is the day in which it is stored; it is null as long as that day is open.
SELECT device_id, arrived_at, reason, payload, chain, "partition", "first", "offset", item, dt
FROM dead_letters_days
WHERE dt <= $upto
UNION ALL
SELECT
  l.device_id, l.arrived_at, l.reason, l.payload, l.chain, l."partition", l."first", l."offset", l.item,
  CAST(NULL AS varchar) AS dt
FROM landing AS l
LEFT JOIN cuts AS c ON c.n = $n AND c.chain = l.chain AND c."partition" = l."partition"
WHERE l.reason IS NOT NULL
  AND l."first" >= COALESCE(c."first", 0)
  AND l."offset" >= COALESCE(c."offset", 0)
