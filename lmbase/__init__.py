"""Ground floor: text, data, losses, training and metrics. Knows neither sentences' models nor heads."""
