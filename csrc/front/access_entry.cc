#include "front/access_entry.h"

#include "engine/model.h"

namespace headrace {

void AccessEntry::set_ticket(const Ticket& ticket, bool answered) {
  const auto& served = *static_cast<const Model*>(ticket.cookie_model);
  model = served.name;
  version = served.version_text;
  request_id = ticket.id;
  rows = ticket.rows;
  if (!answered) return;
  batch_rows = ticket.batch_rows;
  if (ticket.time.finished != 0) {
    queue_ns = ticket.time.started - ticket.time.queued;
    compute_ns = ticket.time.finished - ticket.time.started;
  }
}

void AccessEntry::set_headers(const wire::Metadata& forwarded) {
  std::size_t bytes = 0;
  for (const auto& [name, value] : forwarded) {
    std::string text = value.substr(0, kMaxHeaderValue);
    if (text.size() < value.size()) text += "...";
    bytes += name.size() + text.size();
    if (bytes > kMaxHeaders) {
      headers.emplace_back("...", "");
      return;
    }
    headers.emplace_back(name, std::move(text));
  }
}

}  // namespace headrace
