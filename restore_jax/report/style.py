"""How a report looks: on light and dark screens, and on paper.

Colours of data are those of `restore_jax.report.figures`, lighter on dark.
"""

_LIGHT = """
  --paper: #ffffff; --page: #f4f5f4; --ink: #23282b; --faint: #63696d; --line: #dcdfe0;
  --blue: #0072b2; --orange: #c2500a; --green: #00805f; --hatch: #d3d6d7; --bare: #eaeceb;
  --alarm: #b3450a; --alarm-paper: #fdf0e8; --doubt: #8a6100; --doubt-paper: #fdf6e0;
  --calm: #00619a; --calm-paper: #eaf4fa;
"""
_DARK = """
  --paper: #1b1f22; --page: #121517; --ink: #e6e8e9; --faint: #a2a9ad; --line: #363c40;
  --blue: #56b4e9; --orange: #f28e4b; --green: #3fc79c; --hatch: #4a5156; --bare: #2c3236;
  --alarm: #f5a06a; --alarm-paper: #33231a; --doubt: #e6bf5a; --doubt-paper: #2e2818;
  --calm: #7cc4ef; --calm-paper: #182a36;
"""

STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }}
main {{ max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }}
h1, h2, h3, p, dd, figcaption, tbody th {{ overflow-wrap: anywhere; }}
tbody th {{ min-width: 7.5rem; }}
h1 {{ font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; }}
h2 {{ font-size: 1.1rem; margin: 0 0 .8rem; }}
h3 {{ font-size: 1rem; margin: 1.4rem 0 .5rem; }}
p {{ margin: .4rem 0; max-width: 46rem; }}
a {{ color: var(--calm); }}
header, section {{ background: var(--paper); border: 1px solid var(--line); border-radius: 8px;
  padding: 1.1rem 1.3rem; margin: 0 0 1rem; }}
header {{ border-left-width: 6px; }}
.alarm {{ border-left-color: var(--alarm); background: var(--alarm-paper); }}
.alarm h1 {{ color: var(--alarm); }}
.doubt {{ border-left-color: var(--doubt); background: var(--doubt-paper); }}
.doubt h1 {{ color: var(--doubt); }}
.calm {{ border-left-color: var(--calm); background: var(--calm-paper); }}
.calm h1 {{ color: var(--calm); }}
.kind, .note, figcaption, .facts dt, summary {{ color: var(--faint); font-size: .9rem; }}
.kind {{ margin: 0 0 .3rem; }}
.facts {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr));
  gap: .7rem 1.4rem; margin: .2rem 0; }}
.facts dd {{ margin: 0; font-variant-numeric: tabular-nums; }}
.big {{ font-size: 1.35rem; font-weight: 600; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: .92rem; }}
th, td {{ text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; font-weight: 400; }}
thead th {{ color: var(--faint); font-size: .85rem; vertical-align: bottom; }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
.named, .hit {{ color: var(--orange); font-weight: 600; }}
.bar {{ display: inline-block; height: .6rem; min-width: 1px; margin-right: .4rem;
  width: calc(var(--share) * 5rem);
  background: var(--blue); border-radius: 2px; print-color-adjust: exact;
  -webkit-print-color-adjust: exact; }}
.named .bar {{ background: var(--orange); }}
figure {{ margin: 0; }}
.pictures {{ display: flex; flex-wrap: wrap; gap: 1rem 1.4rem; align-items: flex-start; }}
.pictures figure {{ width: 12rem; }}
.probes {{ display: grid; gap: .5rem; grid-template-columns: 5rem repeat(4, minmax(3rem, 8.5rem));
  align-items: center; }}
.probes figure, .pictures figure {{ text-align: center; }}
.probes p {{ font-size: .9rem; color: var(--faint); margin: 0; }}
img, .trigger {{ display: block; width: 100%; image-rendering: pixelated; border-radius: 2px; }}
.trigger image {{ image-rendering: pixelated; }}
.trigger, .map {{ background: repeating-linear-gradient(45deg, var(--hatch) 0 1px,
  var(--bare) 1px 6px); print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
.map {{ background: var(--bare); }}
.trigger path {{ fill: none; stroke: var(--orange); stroke-width: 2px;
  vector-effect: non-scaling-stroke; }}
.hit img {{ outline: 3px solid var(--orange); }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr));
  gap: 1rem; }}
.chart {{ display: block; width: 100%; max-width: 27rem; font-size: 12.5px; }}
.chart text {{ fill: var(--ink); }}
.chart .axis {{ fill: var(--faint); }}
.chart .grid {{ stroke: var(--line); }}
.chart polyline, .chart line {{ fill: none; stroke-width: 1.6; }}
.chart .blue {{ stroke: var(--blue); }}
.chart .green {{ stroke: var(--green); }}
.chart .orange {{ stroke: var(--orange); }}
.chart .grey {{ stroke: var(--faint); stroke-width: 1; }}
.chart circle.blue {{ fill: var(--blue); }}
.chart circle.green {{ fill: var(--green); }}
.chart circle.orange {{ fill: var(--orange); }}
.chart circle.grey {{ display: none; }}
.chart text.blue {{ fill: var(--blue); stroke: none; }}
.chart text.green {{ fill: var(--green); stroke: none; }}
.chart text.orange {{ fill: var(--orange); stroke: none; }}
.chart .dashed {{ stroke-dasharray: 5 4; }}
pre {{ background: var(--page); border: 1px solid var(--line); border-radius: 6px;
  padding: .7rem .9rem; margin: .4rem 0; overflow-x: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; font-size: .9rem; }}
details {{ margin-top: .8rem; }}
summary {{ cursor: pointer; }}
@media (max-width: 32rem) {{
  .probes {{ grid-template-columns: repeat(4, 1fr); }}
  .probes p {{ grid-column: 1 / -1; }}
  .pictures figure {{ width: 9rem; }}
}}
@page {{ margin: 1.5cm; }}
@media print {{
  :root {{ color-scheme: light; {_LIGHT} --page: #ffffff; }}
  body {{ font-size: 10pt; }}
  table {{ font-size: 8pt; }}
  th, td {{ padding-right: .5rem; }}
  tbody th {{ min-width: 0; }}
  .bar {{ width: calc(var(--share) * 2rem); }}
  main {{ max-width: none; padding: 0; }}
  header, section {{ break-inside: auto; padding: .6rem .8rem; }}
  h2, h3 {{ break-after: avoid; }}
  figure, tr, .chart {{ break-inside: avoid; }}
  details::details-content {{ content-visibility: visible; block-size: auto; }}
}}
"""
"""The style sheet of every report."""
