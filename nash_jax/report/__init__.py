"""What a run leaves behind for people and programs: `result.write` writes report.html and report.json."""
