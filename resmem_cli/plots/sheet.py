"""The style sheet of the HTML page."""

STYLE_SHEET = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; background: #fff; color: #222; font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 74rem; margin: 0 auto; padding: 1.25rem 1rem 3rem; }
h1, h2, h3 { line-height: 1.25; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0 0 1rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .75rem; padding-top: 1rem; border-top: 1px solid #ddd; }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; overflow-wrap: anywhere; }
.headline { display: flex; flex-wrap: wrap; gap: .75rem; padding: 0; margin: 0 0 1rem; }
.headline > div { flex: 1 1 13rem; border: 1px solid #ddd; border-radius: 8px; padding: .6rem .9rem; }
.headline dt, .facts dt { color: #555; font-size: .85rem; }
.headline dd { margin: 0; font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.headline dd small { display: block; font-size: .85rem; font-weight: 400; color: #444; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); }
.facts { gap: .5rem 1.25rem; margin: .5rem 0; }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.notices { background: #fff6df; border-left: 4px solid #e69f00; padding: .6rem 1rem; margin: 0 0 1rem; }
.notices h2 { border: 0; margin: 0; padding: 0; font-size: 1rem; }
.notices ul { margin: .25rem 0 0; padding-left: 1.2rem; overflow-wrap: anywhere; }
.figures { columns: 2 30rem; column-gap: 2rem; margin: 1rem 0; }
figure { margin: 0 0 1.75rem; break-inside: avoid; }
figure svg { display: block; width: 100%; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption { font-size: .9rem; color: #444; margin-top: .4rem; }
.wide { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #444; padding-bottom: .25rem; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #e5e5e5; vertical-align: top; }
th { font-weight: 600; color: #444; border-bottom-color: #aaa; }
.number { text-align: right; white-space: nowrap; }
.text { text-align: left; white-space: nowrap; }
.long { min-width: 14rem; max-width: 22rem; white-space: normal; overflow-wrap: anywhere; }
details { border: 1px solid #ddd; border-radius: 8px; padding: .4rem .8rem; margin: .5rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 0 2rem; }
.pair > * { min-width: 0; }
@media print {
  main { max-width: none; padding: 0; }
  body { font-size: 11px; }
  figure, tr, .headline { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .wide { overflow: visible; }
}
"""
