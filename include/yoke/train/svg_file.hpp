// A plot as a file of its own: an .svg with the colours that a page's style sheet would give it, in light and dark.
#pragma once
#include <yoke/core/expects.hpp>

#include <string>
#include <string_view>

namespace yoke::train {

/// The style sheet of plots in a page, or a file, of their own; the colours of a dark screen come with it.
inline constexpr std::string_view plot_style = R"(
:root{color-scheme:light dark;--card:#fff;--ink:#1c2230;--muted:#667080;--grid:#ecebe6;--curve:#3555d1;--second:#d9540b;
--third:#1f8a4c;--fourth:#8a3fb5}
@media(prefers-color-scheme:dark){:root{--card:#1a1e24;--ink:#e8eaed;--muted:#98a2af;--grid:#262b33;--curve:#86a2ff;
--second:#ff9248;--third:#4cc47c;--fourth:#cf95f0}}
.plot{font:12.5px system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;font-variant-numeric:tabular-nums}
.plot text{fill:var(--ink)}.plot .muted{fill:var(--muted)}.middle{text-anchor:middle}.end{text-anchor:end}
line.grid{stroke:var(--grid)}.axis{stroke:var(--muted);stroke-opacity:.6}
.reference{stroke:var(--muted);stroke-dasharray:5 4}
.curve{fill:none;stroke:var(--curve);stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
line.curve{stroke-width:1.5}.faint{stroke-width:1;stroke-opacity:.28}.dot{fill:var(--curve)}
.curve.second{stroke:var(--second)}.dot.second{fill:var(--second)}
.curve.third{stroke:var(--third)}.dot.third{fill:var(--third)}
.curve.fourth{stroke:var(--fourth)}.dot.fourth{fill:var(--fourth)}
)";

/// A plot as the content of an .svg file, on the ground that its colours are made for.
inline std::string svg_file(std::string svg) {
  constexpr std::string_view opening = "<svg ";
  expects(svg.starts_with(opening), "svg_file: an <svg> element");
  svg.insert(opening.size(), "xmlns='http://www.w3.org/2000/svg' ");
  svg.insert(svg.find('>') + 1, "<style>" + std::string(plot_style) +
                                    "</style><rect width='100%' height='100%' fill='var(--card)'/>");
  return svg + "\n";
}

}  // namespace yoke::train
