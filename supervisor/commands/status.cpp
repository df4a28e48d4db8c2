#include <fmt/format.h>
#include <poll.h>

#include <nlohmann/json.hpp>

#include "supervisor/commands/commands.h"
#include "supervisor/control.h"
#include "supervisor/succession.h"

namespace supervise {
namespace {

using Json = nlohmann::ordered_json;

std::string scalar(const Json& value) {
  if (value.is_string()) return value.get_ref<const std::string&>().empty() ? "-" : value.get<std::string>();
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  if (value.is_null()) return "-";
  if (value.is_number_float()) return fmt::format("{:.6g}", value.get<double>());
  return value.dump();
}

// Any JSON as indented text, so that a supervisor that says more is shown whole.
void render(const Json& value, int indent, std::string& out) {
  const std::string space(static_cast<std::size_t>(indent), ' ');
  for (const auto& [key, item] : value.items()) {
    if (item.is_object()) {
      out += fmt::format("{}{}:\n", space, key);
      render(item, indent + 2, out);
    } else if (item.is_array()) {
      out += fmt::format("{}{}:{}\n", space, key, item.empty() ? " none" : "");
      for (const auto& element : item) {
        if (!element.is_object()) {
          out += fmt::format("{}  - {}\n", space, element.is_array() ? element.dump() : scalar(element));
          continue;
        }
        std::string block;
        render(element, indent + 4, block);
        if (!block.empty()) block[static_cast<std::size_t>(indent) + 2] = '-';
        out += block;
      }
    } else {
      out += fmt::format("{}{}: {}\n", space, key, scalar(item));
    }
  }
}

Json parsed_body(const ControlAnswer& answer) {
  auto body = Json::parse(answer.body.empty() ? "{}" : answer.body, nullptr, false);
  return body.is_object() ? body : Json{{"answer", body}};
}

std::string shown(const Json& value, bool json) {
  if (json) return value.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  std::string out;
  render(value, 0, out);
  return out;
}

int status_of_all(const ControlOptions& options) {
  auto all = Json::array();
  std::string text;
  int status = 0;
  for (const auto& name : control_names()) {
    const auto answer = control_ask(name, {.command = "status", .stop = false, .to = {}},
                                    Deadline::in(options.timeout));
    if (!answer && (answer.error().err == ECONNREFUSED || answer.error().err == ENOENT)) continue;
    Json item;
    if (answer.ok() && answer.value().ok) {
      item = parsed_body(answer.value());
    } else {
      item["error"] = answer.ok() ? answer.value().message : answer.error().message();
      status = 1;
    }
    if (!item.contains("name")) item["name"] = name;
    text += fmt::format("{}{}", text.empty() ? "" : "\n", shown(item, false));
    all.push_back(std::move(item));
  }
  if (options.json) return print_out(shown(all, true), status);
  if (all.empty()) text = fmt::format("nothing is supervised here (looked in {})\n", control_dir());
  return print_out(text, status);
}

}  // namespace

int command_control(CommandId command, const ControlOptions& options) {
  ControlRequest request;
  request.command = command == CommandId::Status       ? "status"
                    : command == CommandId::Checkpoint ? "checkpoint"
                    : command == CommandId::Handover   ? "handover"
                    : command == CommandId::Adopt      ? "adopt"
                                                       : "activate";
  request.stop = options.stop;
  request.to = options.to;
  if (command == CommandId::Adopt) request.form = kSuccessionForm;
  auto answer = control_ask(options.name, request, Deadline::in(options.timeout));
  // Between an activation and the session's first answer nobody has the socket for a moment.
  for (int i = 0; i < 50 && !answer && answer.error().err == ECONNREFUSED && command == CommandId::Activate; ++i) {
    ::poll(nullptr, 0, 2);
    answer = control_ask(options.name, request, Deadline::in(options.timeout));
  }
  if (!answer) return complain(answer.error().message(), 1);
  if (!answer.value().ok)
    return complain(fmt::format("{} {}: {}", request.command, options.name, answer.value().message), 1);
  return print_out(shown(parsed_body(answer.value()), options.json));
}

int command_status(const ControlOptions& options) {
  if (options.name.empty()) return status_of_all(options);
  return command_control(CommandId::Status, options);
}

}  // namespace supervise
