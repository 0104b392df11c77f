-- W3C traceparent of the receipt, with which the work goes on; NULL without traces.
ALTER TABLE inbox ADD COLUMN trace TEXT;
