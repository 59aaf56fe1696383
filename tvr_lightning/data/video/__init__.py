"""From a path to pixels: container and timeline, frames at times, pictures."""
