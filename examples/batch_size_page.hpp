// How yoke-batch-size shows what it found: tables for the terminal, plots, and the page.
#pragma once
#include <yoke/train/format.hpp>
#include <yoke/train/svg_file.hpp>
#include <yoke/train/svg_plot.hpp>

#include "batch_size_results.hpp"
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace batch_size_tool {

/// "0.512 ± 0.013", shares as "51.2 ± 1.3 %"; no error of one run.
inline std::string text_of(estimate const& e, bool percent = false) {
  if (!std::isfinite(e.mean))
    return "–";
  auto const unit = percent ? 100. : 1.;
  auto const digits = percent ? 1 : 3;
  return train::fixed(e.mean * unit, digits) +
         (std::isfinite(e.error) ? " ± " + train::fixed(e.error * unit, digits) : "") + (percent ? " %" : "");
}

/// A column of the table.
struct column {
  std::string name;
  figure value;
  bool percent = false;
};

inline std::vector<column> loss_columns(summary const& s) {
  return {{"train loss", [](auto const& r) { return r.train_loss.back(); }},
          {"held-out loss", [](auto const& r) { return r.held_out_loss.back(); }},
          {"gap", [](auto const& r) { return r.loss_gap(); }},
          {"gap at own batch", [](auto const& r) { return r.own_gap(); }},
          {"gap at equal train loss", s.gap_at_common_loss()}};
}

/// Shares do not change when all logits are scaled, as losses do.
inline std::vector<column> share_columns() {
  return {{"own caption first, train", [](auto const& r) { return r.train_match; }, true},
          {"held-out", [](auto const& r) { return r.held_out_match; }, true},
          {"gap", [](auto const& r) { return r.match_gap(); }, true},
          {"zero-shot, train", [](auto const& r) { return r.train_top1; }, true},
          {"held-out", [](auto const& r) { return r.held_out_top1; }, true},
          {"gap", [](auto const& r) { return r.top1_gap(); }, true},
          {"classes never seen", [](auto const& r) { return r.unseen_top1; }, true}};
}

/// The columns as rows of cells: a head, a row for each batch size, and the growth for each doubling.
inline std::vector<std::vector<std::string>> table(summary const& s, std::vector<column> const& columns) {
  std::vector<std::vector<std::string>> rows{{"batch", "runs", "steps", "rate"}};
  for (auto const& c : columns) rows[0].push_back(c.name);
  for (auto batch : s.batches()) {
    auto const steps = s.of(batch, [](auto const& r) { return static_cast<double>(r.steps); });
    auto const rate = s.of(batch, [](auto const& r) { return r.rate; }).mean;
    auto& row =
        rows.emplace_back(std::vector{train::grouped(batch), std::to_string(steps.count),
                                      train::grouped(std::llround(steps.mean)), train::scientific(rate, 1)});
    for (auto const& c : columns) row.push_back(text_of(s.of(batch, c.value), c.percent));
  }
  auto& last = rows.emplace_back(std::vector<std::string>{"per doubling", "", "", ""});
  for (auto const& c : columns) last.push_back(text_of(s.slope(c.value), c.percent));
  return rows;
}

/// The table in columns of equal width, for a terminal.
inline std::string aligned(std::vector<std::vector<std::string>> const& rows) {
  std::vector<std::size_t> widths(rows[0].size(), 0);
  for (auto const& row : rows)
    for (std::size_t k = 0; k < row.size(); ++k) widths[k] = std::max(widths[k], train::characters(row[k]));
  std::string text;
  for (auto const& row : rows) {
    for (std::size_t k = 0; k < row.size(); ++k)
      text += std::string(widths[k] - train::characters(row[k]) + (k > 0 ? 2 : 0), ' ') + row[k];
    text += "\n";
  }
  return text;
}

/// A plot with its title and the name of its file.
struct picture {
  std::string name, title, svg;
};

inline std::vector<picture> pictures(summary const& s, double chance) {
  auto const plot = [](std::vector<train::named_curve> const& curves, std::string const& what, bool percent,
                       double reference = std::numeric_limits<double>::quiet_NaN()) {
    return train::line_plot(curves, {.x_label = "contrastive batch size",
                                     .description = what + " over batch size, mean and standard error",
                                     .percent = percent,
                                     .doublings = true,
                                     .reference = reference,
                                     .reference_label = std::isfinite(reference) ? "chance" : ""});
  };
  auto const losses = loss_columns(s), shares = share_columns();
  auto const curve = [&](column const& c, std::string name = {}) {
    return train::named_curve{std::move(name), s.curve(c.value)};
  };
  std::vector<train::named_curve> shots{curve(shares[3], "train"), curve(shares[4], "held-out")};
  if (std::any_of(s.runs().begin(), s.runs().end(),
                  [](auto const& r) { return std::isfinite(r.unseen_top1); }))
    shots.push_back(curve(shares[6], "classes never seen"));
  return {
      {"gap.svg", "Gap of the loss: held-out less train",
       plot({curve(losses[2], "fixed batch"), curve(losses[3], "own batch"),
             curve(losses[4], "equal train loss")},
            "gap of the loss", false)},
      {"loss.svg", "Loss at the fixed evaluation batch",
       plot({curve(losses[0], "train"), curve(losses[1], "held-out")}, "loss", false)},
      {"share-gap.svg", "Gap of accuracy: train less held-out",
       plot({curve(shares[5], "zero-shot"), curve(shares[2], "own caption first")}, "gap of accuracy", true)},
      {"zero-shot.svg", "Zero-shot accuracy", plot(shots, "zero-shot accuracy", true, chance)}};
}

/// The page: what was done in sentences, the plots, the table.
inline std::string page(summary const& s, double chance, std::string const& title,
                        std::vector<std::string> const& sentences) {
  using train::escape;
  auto html =
      "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'><meta name='viewport' "
      "content='width=device-width, initial-scale=1'><title>" +
      escape(title) + "</title><style>" + std::string(train::plot_style) + R"(
body{margin:0;background:var(--grid);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
main{max-width:1080px;margin:0 auto;padding:40px 20px}h1{line-height:1.15}p{max-width:75ch}
h2{font-size:15px;margin:0 0 10px}
.plots{display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr))}
.card{background:var(--card);border-radius:12px;padding:18px;margin-bottom:16px;overflow-x:auto}
svg{display:block;width:100%}
table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}
td,th{padding:5px 10px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--grid)}
</style></head>
<body><main><h1>)" +
      escape(title) + "</h1>";
  for (auto const& sentence : sentences) html += "<p>" + escape(sentence) + "</p>";
  html += "\n<div class='plots'>";
  for (auto const& p : pictures(s, chance))
    html += "<div class='card'><h2>" + escape(p.title) + "</h2>" + p.svg + "</div>";
  html += "</div>";
  for (auto const& columns : {loss_columns(s), share_columns()}) {
    html += "\n<div class='card'><table>";
    auto const rows = table(s, columns);
    for (auto const& row : rows) {
      auto const* const cell_tag = &row == rows.data() ? "th>" : "td>";
      html += "<tr>";
      for (auto const& cell : row)
        html.append("<").append(cell_tag).append(escape(cell)).append("</").append(cell_tag);
      html += "</tr>";
    }
    html += "</table></div>";
  }
  return html + "</main></body></html>\n";
}

}  // namespace batch_size_tool
