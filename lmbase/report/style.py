"""The style sheet of the HTML report. Colours are variables with a light and a dark value; charts use the same ones."""

STYLE = """
:root { color-scheme: light dark; --page:#fbfbfa; --card:#fff; --ink:#1d2129; --muted:#667085; --grid:#e7e9ee;
  --line:#d9dce3; --accent:#2c5fb3; --lost:#fbdcd8; --lost-ink:#8f1d12; --new:#d6f1dd; --new-ink:#125c2b;
  --c0:#2c6fbb; --c1:#d1622b; --c2:#3a8f5b; --c3:#8a56ac; --c4:#b8891a; --c5:#1f8f9b; --c6:#c2417c;
  --c7:#6b7280; }
@media (prefers-color-scheme: dark) {
:root { --page:#14161a; --card:#1c1f25; --ink:#e6e8ec; --muted:#98a1b0; --grid:#2a2e37; --line:#343943;
  --accent:#8ab4f8; --lost:#51211c; --lost-ink:#ffb4a9; --new:#173f27; --new-ink:#9be8b2; --c0:#6fa8ec;
  --c1:#f0935f; --c2:#6cc78f; --c3:#bf93e0; --c4:#dcb354; --c5:#5cc6d0; --c6:#ec83b2; --c7:#a3abb8; }
}
* { box-sizing: border-box }
body { margin:0; background:var(--page); color:var(--ink); font:15px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, sans-serif }
main { max-width:1180px; margin:0 auto; padding:36px 24px 72px }
h1 { font-size:27px; line-height:1.2; margin:0 0 6px; letter-spacing:-.015em }
h2 { font-size:19px; margin:44px 0 12px; letter-spacing:-.01em }
h3 { font-size:14.5px; margin:0 0 4px; font-weight:600 }
p { margin:6px 0 12px }
.muted { color:var(--muted) }
.small { font-size:13px }
.cards { display:grid; gap:16px; grid-template-columns:repeat(auto-fit, minmax(min(100%, 440px), 1fr)) }
.card { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:16px 18px; min-width:0
  }
.stack > * + * { margin-top:16px }
.scroll { overflow-x:auto }
table { border-collapse:collapse; width:100%; font-size:13.5px; font-variant-numeric:tabular-nums }
th { text-align:left; color:var(--muted); font-weight:600; vertical-align:bottom; font-size:12.5px }
th, td { padding:7px 12px 7px 0; border-bottom:1px solid var(--grid) }
tr:last-child td { border-bottom:0 }
td.n, th.n { text-align:right }
td.first { font-weight:600; min-width:150px; position:sticky; left:0; background:var(--card) }
h3 .muted { font-weight:400 }
tr.sum td { font-weight:600 }
td.best { font-weight:700; color:var(--accent) }
.legend { display:flex; flex-wrap:wrap; gap:2px 16px; font-size:12.5px; color:var(--muted); margin:0 0 4px }
.legend i { display:inline-block; width:11px; height:11px; border-radius:3px; margin-right:6px;
  vertical-align:-1px }
.legend b { color:var(--ink); font-weight:600; font-variant-numeric:tabular-nums }
svg { display:block; width:100%; height:auto; font:11.5px system-ui, sans-serif }
svg text { fill:var(--muted) }
svg .grid { stroke:var(--grid) }
svg .axis { stroke:var(--line) }
svg .median { stroke:var(--c1); stroke-dasharray:4 3 }
svg .median + text { fill:var(--c1) }
svg .name, svg .value { fill:var(--ink); font-size:12.5px }
svg .value { font-weight:600 }
svg .hover { opacity:0 }
svg .hover:hover { opacity:.55 }
.text { white-space:pre-wrap; overflow-wrap:anywhere; font:15px/1.6 Georgia, "Iowan Old Style", "DejaVu Serif",
  serif; margin:6px 0 0 }
.prompt { color:var(--muted) }
.tag { font-size:12px; color:var(--muted); border:1px solid var(--line); border-radius:99px; padding:1px 9px }
.tag.exact { color:var(--new-ink); background:var(--new); border-color:transparent }
.head { display:flex; gap:10px; align-items:center }
mark { border-radius:3px; padding:1px 0 }
mark.lost { background:var(--lost); color:var(--lost-ink); text-decoration:line-through 1px }
mark.new { background:var(--new); color:var(--new-ink) }
.pair { display:grid; grid-template-columns:68px 1fr; gap:2px 12px }
.pair .text { margin:0 }
.pair span { color:var(--muted); font-size:12.5px; padding-top:3px }
.sample + .sample { border-top:1px solid var(--grid); margin-top:14px; padding-top:14px }
details { margin:8px 0 }
summary { cursor:pointer; font-weight:600; font-size:14px }
pre { font-size:12.5px; line-height:1.45; overflow-x:auto; white-space:pre-wrap; overflow-wrap:anywhere }
@media print { .card { break-inside:avoid } }
"""
