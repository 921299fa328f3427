#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <map>
#include <set>
#include <vector>

#include "eval/report.h"

namespace atlas::eval {
namespace {

using Json = nlohmann::json;

constexpr double kPanelWidth = 340, kPanelHeight = 230, kPanelGap = 30, kLeft = 46, kBottom = 34, kTop = 26,
                 kHeader = 64;
constexpr std::array kColours = {"#1b6ca8", "#d1495b", "#3a7d44", "#e09f3e",
                                 "#6d597a", "#2a9d8f", "#8d6e63", "#444444"};

std::string number(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.2f", value);
    return text;
}

std::string label(double value) {
    char text[32];
    if (value >= 1024 && std::fmod(value, 1024) == 0) {
        std::snprintf(text, sizeof text, "%.0fK", value / 1024);
    } else {
        std::snprintf(text, sizeof text, value >= 100 || value == std::floor(value) ? "%.0f" : "%.2f", value);
    }
    return text;
}

std::string escaped(const std::string& text) {
    std::string out;
    for (const char c : text) {
        if (c == '<')
            out += "&lt;";
        else if (c == '&')
            out += "&amp;";
        else
            out += c;
    }
    return out;
}

struct Point {
    double x, y, low, high;  // low == high: no interval
};

/** A chart of one line per mode over a logarithmic x axis. */
struct Panel {
    std::string title;
    std::vector<std::vector<Point>> lines;  // per mode
    double y_low = 0, y_high = 1;
    bool percent = false;
};

std::string text_at(double x, double y, const std::string& text, const char* anchor, const char* style = "") {
    return "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" text-anchor=\"" + anchor + "\" " + style + ">" +
           escaped(text) + "</text>\n";
}

std::string draw(const Panel& panel, double left, double top) {
    std::set<double> xs;
    for (const auto& line : panel.lines)
        for (const Point& point : line) xs.insert(point.x);
    if (xs.empty()) return {};
    const double width = kPanelWidth - kLeft - 14;
    const double height = kPanelHeight - kTop - kBottom;
    const double from = std::log2(*xs.begin());
    const double span = std::max(1e-9, std::log2(*xs.rbegin()) - from);
    const auto x_of = [&](double x) {
        return left + kLeft + (xs.size() == 1 ? width / 2 : (std::log2(x) - from) / span * width);
    };
    const auto y_of = [&](double y) {
        return top + kTop + height * (1 - (y - panel.y_low) / (panel.y_high - panel.y_low));
    };
    std::string svg = text_at(left + kLeft, top + 14, panel.title, "start", "font-weight=\"bold\"");
    for (int i = 0; i <= 4; ++i) {
        const double value = panel.y_low + (panel.y_high - panel.y_low) * i / 4;
        const std::string y = number(y_of(value));
        svg += "<line x1=\"" + number(left + kLeft) + "\" x2=\"" + number(left + kLeft + width) + "\" y1=\"" + y +
               "\" y2=\"" + y + "\" stroke=\"#ddd\"/>\n";
        svg += text_at(left + kLeft - 6, y_of(value) + 4, panel.percent ? label(100 * value) + " %" : label(value),
                       "end", "fill=\"#555\"");
    }
    double last = -1e9;
    for (const double x : xs) {
        if (x_of(x) - last < 34) continue;
        last = x_of(x);
        svg += text_at(last, top + kTop + height + 18, label(x), "middle", "fill=\"#555\"");
    }
    const double modes = static_cast<double>(panel.lines.size());
    for (size_t m = 0; m < panel.lines.size(); ++m) {
        const std::string colour = kColours[m % kColours.size()];
        // Side by side where lines lie on each other.
        const double shift = (static_cast<double>(m) - (modes - 1) / 2) * 3;
        std::string path;
        for (const Point& point : panel.lines[m]) {
            const double x = x_of(point.x) + shift;
            path += (path.empty() ? "M" : "L") + number(x) + " " + number(y_of(point.y));
            if (point.low != point.high) {
                svg += "<line x1=\"" + number(x) + "\" x2=\"" + number(x) + "\" y1=\"" + number(y_of(point.low)) +
                       "\" y2=\"" + number(y_of(point.high)) + "\" stroke=\"" + colour +
                       "\" stroke-opacity=\"0.45\" stroke-width=\"2\"/>\n";
            }
            svg += "<circle cx=\"" + number(x) + "\" cy=\"" + number(y_of(point.y)) + "\" r=\"3.2\" fill=\"" + colour +
                   "\"/>\n";
        }
        svg += "<path d=\"" + path + "\" fill=\"none\" stroke=\"" + colour + "\" stroke-width=\"1.8\"/>\n";
    }
    return svg;
}

void fit(Panel* panel, bool from_zero) {
    double low = 1e300;
    double high = -1e300;
    for (const auto& line : panel->lines)
        for (const Point& point : line) low = std::min(low, point.low), high = std::max(high, point.high);
    const double margin = std::max(1e-6, 0.08 * (high - low));
    panel->y_low = from_zero ? 0 : low - margin;
    panel->y_high = high + margin;
}

std::vector<Panel> panels_of(const Json& report) {
    std::vector<Panel> panels;
    const Json& modes = report["modes"];
    std::vector<std::string> tasks;
    if (modes[0]["result"].contains("retrieval")) {
        for (const Json& r : modes[0]["result"]["retrieval"]) {
            const std::string task = r["task"];
            if (std::find(tasks.begin(), tasks.end(), task) == tasks.end()) tasks.push_back(task);
        }
    }
    for (const std::string& task : tasks) {
        Panel panel{task + ": accuracy by length", {}, 0, 1, true};
        for (const Json& mode : modes) {
            panel.lines.emplace_back();
            for (const Json& r : mode["result"]["retrieval"])
                if (r["task"] == task) panel.lines.back().push_back({r["length"], r["accuracy"], r["low"], r["high"]});
        }
        panels.push_back(std::move(panel));
    }
    if (modes[0]["result"].contains("perplexity")) {
        Panel panel{"loss by position, nats", {}};
        for (const Json& mode : modes) {
            panel.lines.emplace_back();
            for (const Json& b : mode["result"]["perplexity"]["by_position"])
                panel.lines.back().push_back({b["to"], b["loss"], b["loss"], b["loss"]});
        }
        fit(&panel, false);
        panels.push_back(std::move(panel));
    }
    if (modes[0]["result"].contains("retrieval")) {
        for (const auto& [title, tokens, seconds] :
             {std::array{"reading, tokens/s by length", "prompt_tokens", "prompt_seconds"},
              std::array{"writing, tokens/s by length", "answer_tokens", "answer_seconds"}}) {
            Panel panel{title, {}};
            for (const Json& mode : modes) {
                std::map<double, std::pair<double, double>> sums;
                for (const Json& r : mode["result"]["retrieval"]) {
                    sums[r["length"]].first += r[tokens].get<double>();
                    sums[r["length"]].second += r[seconds].get<double>();
                }
                panel.lines.emplace_back();
                for (const auto& [length, sum] : sums) {
                    const double speed = sum.second > 0 ? sum.first / sum.second : 0;
                    panel.lines.back().push_back({length, speed, speed, speed});
                }
            }
            fit(&panel, true);
            panels.push_back(std::move(panel));
        }
    }
    return panels;
}

}  // namespace

std::string picture(const Json& report) {
    const std::vector<Panel> panels = panels_of(report);
    const size_t columns = std::min<size_t>(3, std::max<size_t>(1, panels.size()));
    const size_t rows = (panels.size() + columns - 1) / columns;
    const double width = std::max(640.0, static_cast<double>(columns) * (kPanelWidth + kPanelGap) + kPanelGap);
    const double height = kHeader + static_cast<double>(rows) * (kPanelHeight + kPanelGap);
    std::string svg =
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + number(width) + "\" height=\"" + number(height) +
        "\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n";
    const std::string model = report["plan"]["model"];
    svg += text_at(kPanelGap, 26, model.substr(model.find_last_of('/') + 1), "start",
                   "font-size=\"16\" font-weight=\"bold\"");
    double x = kPanelGap;
    for (size_t m = 0; m < report["modes"].size(); ++m) {
        const std::string name = report["modes"][m]["name"];
        svg += "<rect x=\"" + number(x) + "\" y=\"38\" width=\"12\" height=\"12\" fill=\"" +
               kColours[m % kColours.size()] + "\"/>\n";
        svg += text_at(x + 18, 48, name, "start");
        x += 40 + 7 * static_cast<double>(name.size());
    }
    for (size_t i = 0; i < panels.size(); ++i) {
        const size_t row = i / columns;
        svg += draw(panels[i], kPanelGap + static_cast<double>(i % columns) * (kPanelWidth + kPanelGap),
                    kHeader + static_cast<double>(row) * (kPanelHeight + kPanelGap));
    }
    return svg + "</svg>\n";
}

}  // namespace atlas::eval
