"""The HTTP service: one web process without torch, one worker process for each model and device that owns an engine."""
