#include "front/socket_send.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <array>

namespace headrace {

std::size_t send_now(int socket, std::string_view first, std::string_view second) {
  std::array<iovec, 2> parts{{{const_cast<char*>(first.data()), first.size()},  // only read
                              {const_cast<char*>(second.data()), second.size()}}};
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  const ssize_t sent = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  return sent > 0 ? static_cast<std::size_t>(sent) : 0;
}

}  // namespace headrace
