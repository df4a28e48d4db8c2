#include "supervisor/events.h"

namespace supervise {

void Events::emit(Event event) {
  for (auto& sink : sinks_) sink->on_event(event);
}

void Events::error(std::string name, std::string text, std::vector<Field> fields) {
  emit({LogLevel::Error, incident_, std::move(name), std::move(text), std::move(fields)});
}

void Events::warn(std::string name, std::string text, std::vector<Field> fields) {
  emit({LogLevel::Warn, incident_, std::move(name), std::move(text), std::move(fields)});
}

void Events::info(std::string name, std::string text, std::vector<Field> fields) {
  emit({LogLevel::Info, incident_, std::move(name), std::move(text), std::move(fields)});
}

void Events::debug(std::string name, std::string text, std::vector<Field> fields) {
  emit({LogLevel::Debug, incident_, std::move(name), std::move(text), std::move(fields)});
}

}  // namespace supervise
