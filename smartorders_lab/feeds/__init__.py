"""Where ticks come from: files, frames and queries of the past (`history`), and live exchanges."""
