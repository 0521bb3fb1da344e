"""Jobs for ComfyUI servers, over their API: a workflow, and a table with a job's values in each line."""
