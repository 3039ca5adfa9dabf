/* A chat server in C that keeps the contract: one thread, poll, unsent bytes kept for each client. It is one of those
   that check.py must find nothing wrong with. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_MESSAGE = 4096, MAX_UNSENT = 1 << 20, MAX_CLIENTS = 4096 };

struct client {
    int fd, failed;
    char name[32];
    unsigned char received[2 * MAX_MESSAGE];
    size_t length;
    char *unsent;
    size_t waiting;
};

static struct client *clients[MAX_CLIENTS];
static int count, room;
static int wake[2];

static void say(const char *format, ...) {
    char line[200];
    time_t now = time(NULL);
    int start = strftime(line, sizeof line, "%H:%M:%S ", localtime(&now));
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line + start, sizeof line - start, format, arguments);
    va_end(arguments);
    dprintf(2, "%s\n", line);
}

static void on_signal(int number) {
    (void)number;
    int saved = errno;
    if (write(wake[1], "", 1) < 0) {}
    errno = saved;
}

static void drop(struct client *client, const char *why, const char *last) {
    for (int i = 0; i < count; i++)
        if (clients[i] == client)
            clients[i] = clients[--count];
    say("%s %s, %d online", client->name, why, count);
    if (client->waiting)
        send(client->fd, client->unsent, client->waiting, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (last)
        send(client->fd, last, strlen(last), MSG_NOSIGNAL | MSG_DONTWAIT);
    close(client->fd);
    free(client->unsent);
    free(client);
}

/* A client that cannot be sent to is not dropped here: what it had said before may still be unread. */
static void put(struct client *client, const char *data, size_t size) {
    if (client->failed)
        return;
    client->unsent = realloc(client->unsent, client->waiting + size + 1);
    memcpy(client->unsent + client->waiting, data, size);
    client->waiting += size;
    ssize_t sent = send(client->fd, client->unsent, client->waiting, MSG_NOSIGNAL);
    if (sent < 0 && (errno == EAGAIN || errno == EINTR))
        sent = 0;
    if (sent < 0) {
        client->failed = errno == EPIPE ? 1 : 3;
        client->waiting = 0;
        shutdown(client->fd, SHUT_RDWR);
        return;
    }
    memmove(client->unsent, client->unsent + sent, client->waiting - sent);
    client->waiting -= sent;
    if (client->waiting > MAX_UNSENT) {
        client->failed = 2;
        client->waiting = 0;
        shutdown(client->fd, SHUT_RDWR);
    }
}

static size_t without_telnet(unsigned char *data, size_t size) {
    size_t out = 0;
    for (size_t i = 0; i < size; i++) {
        if (data[i] != 0xFF) {
            data[out++] = data[i];
        } else if (i + 1 == size) {
        } else if (data[i + 1] == 0xFF) {
            data[out++] = 0xFF, i++;
        } else if (data[i + 1] >= 0xFB) {
            i += 2;
        } else if (data[i + 1] == 0xFA) {
            for (i += 2; i < size && !(data[i] == 0xFF && (i + 1 == size || data[i + 1] == 0xF0)); i++)
                if (data[i] == 0xFF)
                    i++;
            i++;
        } else if (data[i + 1] >= 0xEC) {
            i++;
        } else {
            data[out++] = 0xFF;
        }
    }
    return out;
}

/* One character of UTF-8; bytes that are none are U+FFFD, as many of them as could have begun one. */
static unsigned next_character(const unsigned char *data, size_t size, size_t *used) {
    unsigned lead = data[0], code, low = 0x80, high = 0xBF;
    size_t more = lead < 0x80 ? 0 : lead < 0xC2 ? 9 : lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : lead < 0xF5 ? 3 : 9;
    *used = 1;
    if (more == 9)
        return 0xFFFD;
    code = more == 0 ? lead : lead & (0x3F >> more);
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
    for (size_t i = 1; i <= more; i++) {
        if (i >= size || data[i] < low || data[i] > high)
            return 0xFFFD;
        code = code << 6 | (data[i] & 0x3F);
        *used = i + 1;
        low = 0x80, high = 0xBF;
    }
    return code;
}

static void message(struct client *sender, unsigned char *line, size_t size) {
    static char text[4 * MAX_MESSAGE + 100];
    size_t out = sprintf(text, "%s says: ", sender->name), used;
    int blank = 1;
    size = without_telnet(line, size);
    for (size_t i = 0; i < size; i += used) {
        unsigned code = next_character(line + i, size - i, &used);
        if ((code < 0x20 && code != '\t') || (code >= 0x7F && code < 0xA0) || (code >= 0x202A && code <= 0x202E) ||
            (code >= 0x2066 && code <= 0x2069))
            continue;
        if (code != ' ' && code != '\t' && code != 0xA0 && code != 0x3000)
            blank = 0;
        if (code == 0xFFFD)
            memcpy(text + out, "\xEF\xBF\xBD", 3), out += 3;
        else
            memcpy(text + out, line + i, used), out += used;
    }
    if (blank)
        return;
    text[out++] = '\n';
    for (int i = 0; i < count; i++)
        if (clients[i] != sender)
            put(clients[i], text, out);
}

static void receive(struct client *client) {
    ssize_t got = recv(client->fd, client->received + client->length, MAX_MESSAGE, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got < 0) {
        drop(client, client->failed == 2 ? "dropped: too slow" : "dropped: connection reset by peer", NULL);
        return;
    }
    client->length += got;
    unsigned char *start = client->received, *end = start + client->length;
    unsigned char *interrupt = memmem(start, client->length, "\xff\xf4", 2);
    if (interrupt)
        end = interrupt;
    for (unsigned char *newline; (newline = memchr(start, '\n', end - start)); start = newline + 1) {
        if (newline - start >= MAX_MESSAGE)
            break;
        message(client, start, newline - start);
    }
    size_t rest = end - start;
    if (rest > MAX_MESSAGE || (rest == MAX_MESSAGE && memchr(start, '\n', rest))) {
        drop(client, "dropped: message too long", "error: a message may be at most 4096 bytes\n");
    } else if (!got && !interrupt) {
        if (client->failed < 2) /* a reset is told once: who was told so by send is told an end by recv */
            message(client, start, rest);
        drop(client, client->failed == 2 ? "dropped: too slow" : "left", NULL);
    } else if (interrupt) {
        drop(client, "left", NULL);
    } else {
        memmove(client->received, start, rest);
        client->length = rest;
    }
}

static void welcome(int listener) {
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    int on = 1, fd = accept4(listener, (struct sockaddr *)&address, &size, SOCK_NONBLOCK);
    if (fd < 0) {
        usleep(10000);
        return;
    }
    if (count >= room) {
        if (send(fd, "error: the room is full\n", 24, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {}
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    struct client *client = calloc(1, sizeof *client);
    client->fd = fd;
    snprintf(client->name, sizeof client->name, "%s:%d", inet_ntoa(address.sin_addr), ntohs(address.sin_port));
    clients[count++] = client;
    say("%s joined, %d online", client->name, count);
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct rlimit limit;
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    address.sin_port = htons(argc > 1 ? atoi(argv[1]) : 9669);
    signal(SIGPIPE, SIG_IGN);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024)) {
        dprintf(2, "poll: cannot listen on 127.0.0.1:%d: %s\n", ntohs(address.sin_port), strerror(errno));
        return 1;
    }
    getrlimit(RLIMIT_NOFILE, &limit);
    room = limit.rlim_cur > MAX_CLIENTS ? MAX_CLIENTS : (int)limit.rlim_cur - 16;
    if (pipe(wake)) return 1;
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    say("listening on 127.0.0.1:%d", ntohs(address.sin_port));
    static struct pollfd polled[MAX_CLIENTS + 2];
    static struct client *asked[MAX_CLIENTS];
    for (;;) {
        polled[0] = (struct pollfd){.fd = wake[0], .events = POLLIN};
        polled[1] = (struct pollfd){.fd = listener, .events = POLLIN};
        int number = count;
        for (int i = 0; i < number; i++) {
            asked[i] = clients[i];
            polled[i + 2] = (struct pollfd){.fd = clients[i]->fd, .events = POLLIN};
            if (clients[i]->waiting)
                polled[i + 2].events |= POLLOUT;
        }
        if (poll(polled, number + 2, -1) < 0)
            continue;
        if (polled[0].revents)
            break;
        for (int i = 0; i < number; i++) {
            if (polled[i + 2].revents & POLLOUT)
                put(asked[i], "", 0);
            if (polled[i + 2].revents & ~POLLOUT)
                receive(asked[i]);
        }
        if (polled[1].revents)
            welcome(listener);
    }
    while (count)
        drop(clients[0], "dropped: server stopping", NULL);
    say("bye");
    return 0;
}
