"""Pictures and the report page: tables and arrays in, figures and one self-contained HTML file out.

The room imports nothing of ours but `_runtime`, so it draws an edge table or an effects table from anywhere.
Trade-off: figures are drawn by matplotlib as SVG and put into the page as they are, rather than by a
JavaScript library. That costs interaction (no zoom, no hover) and buys a page that works offline, without
scripts, on paper and in ten years.
"""
