"""From models and texts to rows of a table: audited likelihood, reconstruction, speed, samples."""
