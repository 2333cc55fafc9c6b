-- What the topic rule could not hand to the log, as its error action wrote it: one file per packet, whose folder has the day
-- and whose name begins with the milliseconds.
SELECT
  element_at(split(f.topic, '/'), -1) AS device_id,
  CAST(from_unixtime(CAST(regexp_extract(f."$path", '/([0-9]+)-[^/]*$', 1) AS double) / 1000) AS timestamp(3)) AS arrived_at,
  'rule_failed' AS reason,
  try(from_base64(f.base64originalpayload)) AS payload,
  'rule-failures' AS chain,
  CAST(NULL AS integer) AS "partition", CAST(NULL AS bigint) AS "first", CAST(NULL AS bigint) AS "offset",
  CAST(NULL AS integer) AS item,
  CASE
    WHEN regexp_extract(f."$path", '/dt=([0-9-]{10})/', 1) <= $upto THEN regexp_extract(f."$path", '/dt=([0-9-]{10})/', 1)
  END AS dt
FROM rule_failures AS f
