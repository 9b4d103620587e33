"""Parts of the HTML report: markup, charts, tracks over time, sound, style."""
