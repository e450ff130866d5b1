"""Reporting: what finished evaluations and runs wrote, as one page, one Markdown file and figures.

`record` says what is read, `reading` and `curves` read it, `words` name it, `tables` and `sentence` say it,
`charts` and `figures` draw it, `page` and `markdown` lay it out, `writing` puts it into a folder.

Contract: everything comes from files (report.json, distributions.jsonl, predictions.jsonl, metrics.jsonl);
nothing here loads a model or generates, and what prompts and models say is data: it is escaped everywhere.
"""
