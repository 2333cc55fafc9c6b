-- When the newest readings were measured and arrived, among those of days that are open, and of $day on. Earlier days
-- have neither: a day is the day of arrival, and the newest time of a closed day stands in the lake's state.
SELECT MAX(ts) AS last_ts, MAX(arrived_at) AS last_arrived
FROM readings
WHERE (dt IS NULL OR dt >= $day)
  AND ($device = '' OR device_id = $device)
