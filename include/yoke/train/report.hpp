// report.html: one page that shows what a run learned. It needs no other file, no network and no script, and suits
// a phone, a screen in the dark, and paper.
#pragma once
#include <yoke/core/expects.hpp>
#include <yoke/io/file.hpp>
#include <yoke/train/format.hpp>
#include <yoke/train/metrics.hpp>
#include <yoke/train/svg_plot.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace yoke::train {

/// An image found for a caption.
struct retrieved_image {
  std::vector<std::uint8_t> png{};  // the encoded file
  bool right = false;               // the caption's own
  std::string note{};               // under the picture, such as its similarity or its caption
};

/// A held-out caption and what was found for it, best first.
struct retrieval_example {
  std::string caption{};
  std::vector<retrieved_image> found{};
  std::int64_t rank = 0;                // of the caption's own image, from 1; 0 is not known
  std::vector<std::uint8_t> own_png{};  // shown beside when it is not among those found; may be empty
};

/// A figure to be seen first: {"94.2 %", "zero-shot accuracy", "chance is 10 %"}.
struct headline {
  std::string value{}, label{}, note{};
};

/// A row of the table of facts: {"batch", "256"}.
struct fact {
  std::string name{}, value{};
};

/// One of several phases of a run: what was lost and learned in it, over the run's steps.
struct phase_curves {
  std::string name{};
  curve loss{};
  curve accuracy{};  // as a share of 1; may be empty
  std::string accuracy_name = "Accuracy";
};

/// All that a report shows. What is left empty is left out of the page; text is escaped.
struct report {
  std::string title = "Training run";
  std::string summary{};  // a sentence or two under the title
  std::vector<headline> headlines{};
  std::vector<fact> facts{};
  curve loss{}, learning_rate{};                             // over steps
  std::vector<phase_curves> phases{};                        // instead of one loss, where there are several
  curve zero_shot{};                                         // top-1 as a share of 1, over steps
  double chance = std::numeric_limits<double>::quiet_NaN();  // of zero_shot, as a share of 1
  std::vector<std::string> classes{};
  std::vector<std::int64_t> confusion{};  // (true class, predicted class), counts
  std::vector<retrieval_example> retrievals{};
  std::string footer{};
};

/// What records say of one metric, over their steps; records without it are passed over.
inline curve curve_of(std::span<metric_record const> records, std::string_view name) {
  curve result;
  for (auto const& record : records)
    if (auto const value = record.find(name)) {
      result.x.push_back(static_cast<double>(record.step));
      result.y.push_back(*value);
    }
  return result;
}

namespace detail {

inline constexpr std::string_view report_style = R"(
:root{color-scheme:light dark;--paper:#f6f5f1;--card:#fff;--ink:#1c2230;--muted:#667080;--line:#e3e1da;--grid:#ecebe6;
--curve:#3555d1;--right:#1f8a4c;--wrong:#d9540b;--deep:#fff}
@media(prefers-color-scheme:dark){:root{--paper:#121519;--card:#1a1e24;--ink:#e8eaed;--muted:#98a2af;--line:#2b313a;
--grid:#262b33;--curve:#86a2ff;--right:#4cc47c;--wrong:#ff9248;--deep:#101317}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Noto Sans",sans-serif}
main{max-width:1080px;margin:0 auto;padding:40px 20px 24px}
h1{font-size:clamp(28px,5vw,40px);line-height:1.15;letter-spacing:-.02em;margin:0 0 8px}
h2{font-size:20px;letter-spacing:-.01em;margin:40px 0 4px}
p{margin:0 0 12px;max-width:70ch}
.quiet,.note{color:var(--muted)}.quiet{font-size:15px}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px}
.plots{display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(min(100%,320px),1fr));margin-top:12px}
.figures{display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));margin:24px 0 0}
.figures b{display:block;font-size:32px;line-height:1.15;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.figures .note{font-size:14px}
h3{font-size:15px;margin:0 0 10px}
.facts{columns:2 300px;column-gap:40px}
.facts div{display:flex;justify-content:space-between;gap:20px;padding:7px 0;border-bottom:1px solid var(--line);
break-inside:avoid}
.facts dt{color:var(--muted)}.facts dd{margin:0;text-align:right;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
svg{display:block;width:100%;height:auto;font-size:12.5px;font-variant-numeric:tabular-nums}
svg text{fill:var(--ink)}svg .muted{fill:var(--muted)}.middle{text-anchor:middle}.end{text-anchor:end}
line.grid{stroke:var(--grid)}.axis{stroke:var(--muted);stroke-opacity:.6}
.reference{stroke:var(--wrong);stroke-dasharray:5 4}
.curve{fill:none;stroke:var(--curve);stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.faint{stroke-width:1;stroke-opacity:.28}.dot{fill:var(--curve)}
.scroll{overflow-x:auto}.heat{margin:0 auto}
.ground{fill:var(--grid)}.heat .right{fill:var(--curve)}.heat .wrong{fill:var(--wrong)}
svg .cell{text-anchor:middle;font-size:11.5px}svg .deep{fill:var(--deep)}
.query{margin-top:16px;break-inside:avoid}
.query h3{font-size:17px;font-weight:600;margin:0}.query .note{font-size:14px;margin:0 0 12px}
.found{display:grid;grid-template-columns:repeat(5,minmax(0,1fr));gap:12px;max-width:860px}
figure{margin:0;min-width:0}
figure img{display:block;width:100%;aspect-ratio:1;object-fit:contain;background:var(--grid);border-radius:8px}
img.small{image-rendering:pixelated}
figure.right img{outline:4px solid var(--right);outline-offset:2px}
figcaption{font-size:13px;line-height:1.35;color:var(--muted);margin-top:9px;overflow-wrap:anywhere}
figure.right figcaption b{color:var(--right)}
.own{display:flex;align-items:center;gap:14px;margin-top:16px}.own figure{width:72px;flex:none}
.own p{margin:0;font-size:14px;color:var(--muted)}
footer{margin-top:40px;color:var(--muted);font-size:14px}
@media(max-width:560px){main{padding:24px 14px}.card{padding:14px}.found{gap:7px}figcaption{font-size:11px}
.figures{grid-template-columns:1fr 1fr}.figures b{font-size:26px}}
@media print{body{font-size:13px}:root{color-scheme:light;--paper:#fff;--card:#fff;--ink:#000;--muted:#555;--line:#ccc;--grid:#eee;
--curve:#2743b8;--right:#1f8a4c;--wrong:#c74a06;--deep:#fff}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
main{max-width:none;padding:0}.card{break-inside:avoid}h2{break-after:avoid}}
)";

inline std::string base64(std::span<std::uint8_t const> bytes) {
  constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    auto byte = [&](std::size_t k) { return i + k < bytes.size() ? bytes[i + k] : 0u; };
    auto const word = byte(0) << 16 | byte(1) << 8 | byte(2);
    for (std::size_t k = 0; k < 4; ++k)
      text += i + k > bytes.size() ? '=' : digits[word >> (18 - 6 * k) & 63];
  }
  return text;
}

/// Few pixels are shown as squares rather than blurred; a PNG's bytes 16 to 19 are its width.
inline std::string image_tag(std::span<std::uint8_t const> png, std::string_view alternative) {
  constexpr std::string_view signature = "\x89PNG\r\n\x1a\n";
  expects(
      png.size() > 24 && std::equal(signature.begin(), signature.end(), png.begin(),
                                    [](char a, std::uint8_t b) { return static_cast<std::uint8_t>(a) == b; }),
      "report: images encoded as PNG");
  auto const width = png[16] << 24 | png[17] << 16 | png[18] << 8 | png[19];
  return std::string(width <= 64 ? "<img class='small'" : "<img") + " alt='" + escape(alternative) +
         "' src='data:image/png;base64," + base64(png) + "'>";
}

inline std::string section(std::string_view heading, std::string_view explanation) {
  return "<h2>" + escape(heading) + "</h2><p class='quiet'>" + escape(explanation) + "</p>";
}

inline std::string plot_card(std::string_view heading, std::string const& svg) {
  return "<div class='card'><h3>" + escape(heading) + "</h3>" + svg + "</div>";
}

inline std::string example_card(retrieval_example const& example) {
  auto html = "<div class='card query'><h3>“" + escape(example.caption) + "”</h3>";
  bool const hit =
      std::any_of(example.found.begin(), example.found.end(), [](auto const& image) { return image.right; });
  html += "<p class='note'>" +
          (example.rank > 0
               ? "its own image came " + (example.rank == 1 ? "first" : "at place " + grouped(example.rank))
           : hit ? std::string("its own image is among these")
                 : std::string("its own image is not among these")) +
          "</p><div class='found'>";
  for (auto const& image : example.found) {
    html += image.right ? "<figure class='right'>" : "<figure>";
    html += image_tag(image.png, image.right ? "the right image" : "another image") + "<figcaption>" +
            (image.right ? "<b>✓ right</b> " : "") + escape(image.note) + "</figcaption></figure>";
  }
  html += "</div>";
  if (!hit && !example.own_png.empty())
    html += "<div class='own'><figure class='right'>" + image_tag(example.own_png, "the right image") +
            "</figure><p>the image that was wanted</p></div>";
  return html + "</div>";
}

/// The heat map; with more classes than a picture holds, of those most often confused.
inline std::string confusion_card(report const& run) {
  constexpr std::size_t most = 40;
  auto const n = run.classes.size();
  std::vector<std::size_t> shown(n);
  std::iota(shown.begin(), shown.end(), 0);
  if (n > most) {
    std::vector<std::int64_t> mistakes(n, 0);
    for (std::size_t row = 0; row < n; ++row)
      for (std::size_t c = 0; c < n; ++c)
        if (row != c) {
          mistakes[row] += run.confusion[row * n + c];
          mistakes[c] += run.confusion[row * n + c];
        }
    std::stable_sort(shown.begin(), shown.end(), [&](auto a, auto b) { return mistakes[a] > mistakes[b]; });
    shown.resize(most);
    std::sort(shown.begin(), shown.end());
  }
  std::vector<std::string> names;
  std::vector<std::int64_t> counts;
  for (auto row : shown) {
    names.push_back(run.classes[row]);
    for (auto c : shown) counts.push_back(run.confusion[row * n + c]);
  }
  auto html = section(
      "What is taken for what",
      "A row is a true class. The deeper a cell, the larger the share of that class's images that were "
      "taken for the column's; the numbers are percent. Blue is right, orange is wrong.");
  if (n > most)
    html += "<p class='quiet'>The " + std::to_string(most) + " of " + grouped(static_cast<std::int64_t>(n)) +
            " classes with the most mistakes; each row is a share of the images within these.</p>";
  return html + "<div class='card scroll'>" + heat_map(names, counts) + "</div>";
}

}  // namespace detail

/// The page. The confusion has a row and a column for each class; images are PNG files.
inline std::string to_html(report const& run) {
  using namespace detail;
  expects(run.confusion.size() == run.classes.size() * run.classes.size(),
          "report: a confusion of classes × classes");
  auto html =
      "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'><meta name='viewport' "
      "content='width=device-width, initial-scale=1'><title>" +
      escape(run.title) + "</title><style>" + std::string(report_style) +
      "</style></head>\n<body><main><h1>" + escape(run.title) + "</h1>";
  if (!run.summary.empty())
    html += "<p class='quiet'>" + escape(run.summary) + "</p>";
  if (!run.headlines.empty()) {
    html += "\n<div class='figures'>";
    for (auto const& [value, label, note] : run.headlines)
      html += "<div class='card'><b>" + escape(value) + "</b>" + escape(label) + "<div class='note'>" +
              escape(note) + "</div></div>";
    html += "</div>";
  }

  auto const accuracy_card = [&](std::string const& name, curve const& c) {
    return plot_card(name, line_plot(c, {.description = "accuracy over steps",
                                         .percent = true,
                                         .reference = run.chance,
                                         .reference_label = "chance, " + percent(run.chance)}));
  };
  html += "\n<h2>How it learned</h2>";
  for (std::size_t i = 0; i < run.phases.size(); ++i) {
    auto const& p = run.phases[i];
    html += "<h3>" + std::to_string(i + 1) + ". " + escape(p.name) + "</h3><div class='plots'>" +
            plot_card("Loss", line_plot(p.loss, {.description = "loss over steps", .smoothed = true}));
    if (!p.accuracy.x.empty())
      html += accuracy_card(p.accuracy_name, p.accuracy);
    html += "</div>";
  }
  html += "<div class='plots'>";
  if (run.phases.empty()) {
    html += plot_card("Loss", line_plot(run.loss, {.description = "loss over steps", .smoothed = true}));
    if (!run.zero_shot.x.empty())
      html += accuracy_card("Zero-shot accuracy", run.zero_shot);
  }
  html +=
      plot_card("Learning rate", line_plot(run.learning_rate, {.description = "learning rate over steps"}));
  html += "</div>";

  if (!run.retrievals.empty()) {
    html +=
        "\n" +
        section("What is found for a caption",
                "Captions that were never trained on, and the held-out images nearest to each, best first. "
                "The caption's own image is framed.");
    for (auto const& example : run.retrievals) html += example_card(example);
  }
  if (!run.classes.empty())
    html += "\n" + confusion_card(run);
  if (!run.facts.empty()) {
    html += "\n<h2>The run</h2><dl class='card facts'>";
    for (auto const& [name, value] : run.facts)
      html += "<div><dt>" + escape(name) + "</dt><dd>" + escape(value) + "</dd></div>";
    html += "</dl>";
  }
  if (!run.footer.empty())
    html += "\n<footer>" + escape(run.footer) + "</footer>";
  return html + "</main></body></html>\n";
}

/// Writes the page; a full disk leaves the one that is there as it was.
inline void write_html(report const& run, std::string const& path) {
  io::write_file_atomically(path, to_html(run));
}

}  // namespace yoke::train
