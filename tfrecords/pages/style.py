"""The style sheet of the data card's page: one column on a phone, light and dark."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #fbfaf8; --panel: #ffffff; --ink: #1d2127; --quiet: #626973; --rule: #dcdcd8;
  --train: #3b6ea5; --test: #d9822b; --bad: #b3261e; --bad-page: #fdecea; --good: #2e7d4f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --panel: #1c2026; --ink: #e6e8eb; --quiet: #9aa3ae; --rule: #343a43;
    --train: #7fb0e6; --test: #f0a860; --bad: #ff8a80; --bad-page: #3a1f1d; --good: #7fd1a0;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 1080px; padding: 20px 16px 64px; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
h1 { font-size: 26px; line-height: 1.2; margin: 8px 0 4px; }
h2 { font-size: 18px; margin: 40px 0 8px; padding-top: 12px; border-top: 1px solid var(--rule); }
h3 { font-size: 15px; margin: 0; }
section > h3 { margin-top: 18px; }
p { margin: 6px 0 12px; max-width: 68ch; }
.quiet, figcaption, .card dt { color: var(--quiet); }
.small { font-size: 13px; }
nav a { color: var(--quiet); margin-right: 14px; white-space: nowrap; }
ul.warnings { list-style: none; margin: 0; padding: 0; }
ul.warnings li {
  margin: 8px 0; padding: 10px 14px; background: var(--panel); border-radius: 6px;
  border-left: 4px solid var(--rule);
}
ul.warnings li.warning { border-color: var(--bad); background: var(--bad-page); }
ul.warnings strong { display: block; font-weight: 600; }
.fine { color: var(--good); font-weight: 600; }
.scroll { overflow-x: auto; margin: 8px 0 14px; }
table { border-collapse: collapse; font-size: 14px; }
th { font-weight: 500; color: var(--quiet); text-align: right; vertical-align: bottom; }
th, td { padding: 3px 18px 3px 0; overflow-wrap: normal; }
td { text-align: right; white-space: nowrap; border-top: 1px solid var(--rule); }
th:first-child, td:first-child, th.left, td.left { text-align: left; }
.scroll th:first-child, .scroll td:first-child {
  position: sticky; left: 0; background: var(--page); }
.card th:first-child, .card td:first-child { background: var(--panel); }
td.wide { white-space: normal; min-width: 220px; overflow-wrap: anywhere; }
td.bar { width: 130px; min-width: 80px; padding-right: 8px; }
.bar i { display: block; height: 9px; border-radius: 2px; background: var(--train); }
.bar i.drifted { background: var(--bad); } .bar i.shifted { background: var(--test); }
.figures { display: grid; gap: 8px 32px;
  grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); }
.figures.wide { grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)); }
figure { margin: 4px 0; max-width: 560px; overflow-x: auto; }
/* Narrower, what is written in them could not be read; on a phone they are moved aside. */
figure > svg { min-width: 400px; }
figcaption { font-size: 13px; }
svg { display: block; width: 100%; height: auto; }
svg * { stroke-linejoin: round; }
.key::before { content: ""; display: inline-block; width: 10px; height: 10px; margin-right: 5px;
  border-radius: 2px; background: var(--train); }
.key.test::before { background: var(--test); }
.key { margin-right: 12px; white-space: nowrap; }
.fields { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(310px, 1fr)); }
.card { padding: 12px 14px; background: var(--panel); border: 1px solid var(--rule);
  border-radius: 8px; min-width: 0; }
.card p { margin: 2px 0 6px; }
.card table { width: 100%; font-size: 13px; table-layout: fixed; }
.card td, .card th { padding: 2px 0 2px 8px; }
.card td:first-child, .card th:first-child {
  padding-left: 0; overflow: hidden; text-overflow: ellipsis; }
.values th:first-child { width: 38%; } .values td.bar { width: auto; min-width: 0; }
code { font: 13px ui-monospace, Menlo, Consolas, monospace; }
details summary { cursor: pointer; color: var(--quiet); }
"""
