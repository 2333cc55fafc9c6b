-- What outliers were taken for, most frequent first.
SELECT cause, COUNT(*) AS outliers
FROM outliers
GROUP BY cause
ORDER BY outliers DESC, cause
