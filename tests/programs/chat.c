/* A right chat server in C, with epoll: the suite must have nothing against it, whatever a server is written in.

   cc -O2 -o chat chat.c && ./chat PORT */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_MESSAGE = 4096, MAX_UNSENT = 1 << 20, KEPT_BACK = 16 };
static const char TOO_LONG[] = "error: a message may be at most 4096 bytes\n", FULL[] = "error: the room is full\n";

struct client {
    int fd, failed, gone, asked, got;
    char name[32];
    unsigned char line[2 * MAX_MESSAGE];
    char *unsent;
    size_t count, room;
    struct client *next;
};

static struct client *clients;
static int epoll, online;

static void note(const char *name, const char *what, int count) {
    char line[200], now[20];
    time_t t = time(NULL);
    strftime(now, sizeof now, "%H:%M:%S", localtime(&t));
    int length = count < 0 ? snprintf(line, sizeof line, "%s %s\n", now, what)
                           : snprintf(line, sizeof line, "%s %s %s, %d online\n", now, name, what, count);
    if (write(2, line, length) < 0) return; /* nobody reads it */
}

static void watch(struct client *client) {
    struct epoll_event event = {EPOLLIN | (client->count ? EPOLLOUT : 0), {.ptr = client}};
    if (event.events != (unsigned)client->asked) {
        epoll_ctl(epoll, client->asked ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, client->fd, &event);
        client->asked = event.events;
    }
}

static void drop(struct client *client, const char *why) {
    if (client->gone) return;
    close(client->fd);
    client->gone = 1;
    note(client->name, why, --online);
}

static void forget_the_gone(void) {
    for (struct client **place = &clients, *client; (client = *place);)
        if (client->gone) {
            *place = client->next;
            free(client->unsent);
            free(client);
        } else
            place = &client->next;
}

/* The words of one that cannot be sent to may be unread: what it said is read to its end. */
static void cannot_send(struct client *client) {
    client->failed = errno;
    client->count = 0;
    shutdown(client->fd, SHUT_RDWR);
    watch(client);
}

static ssize_t offer(int fd, const void *data, size_t size) { return send(fd, data, size, 0); }

static void flush(struct client *client) {
    ssize_t sent = offer(client->fd, client->unsent, client->count);
    if (sent > 0) {
        memmove(client->unsent, client->unsent + sent, client->count - sent);
        client->count -= sent;
    } else if (sent < 0 && errno != EAGAIN)
        cannot_send(client);
    if (!client->count) {
        free(client->unsent);
        client->unsent = NULL;
        client->room = 0;
    }
    watch(client);
}

static void tell(struct client *client, const char *data, size_t size) {
    if (client->gone || client->failed) return;
    if (!client->count) {
        ssize_t sent = offer(client->fd, data, size);
        if (sent < 0 && errno != EAGAIN) {
            cannot_send(client);
            return;
        }
        if (sent > 0) data += sent, size -= sent;
        if (!size) return;
    }
    if (client->count + size > client->room) {
        size_t room = 2 * (client->count + size);
        char *more = realloc(client->unsent, room);
        if (!more) {
            drop(client, "dropped: out of memory");
            return;
        }
        client->unsent = more;
        client->room = room;
    }
    memcpy(client->unsent + client->count, data, size);
    client->count += size;
    if (client->count > MAX_UNSENT)
        drop(client, "dropped: too slow");
    else
        watch(client);
}

/* Take telnet's commands out of a line. */
static int without_telnet(const unsigned char *line, int size, unsigned char *data) {
    enum { DATA, COMMAND, OPTION, INSIDE, COMMAND_INSIDE } state = DATA;
    int count = 0;
    for (int i = 0; i < size; i++) {
        unsigned char byte = line[i];
        switch (state) {
        case DATA:
            if (byte == 255)
                state = COMMAND;
            else
                data[count++] = byte;
            break;
        case COMMAND:
            state = byte == 250 ? INSIDE : byte >= 251 && byte < 255 ? OPTION : DATA;
            if (byte == 255)
                data[count++] = 255;
            else if (byte < 0xEC)
                data[count++] = 255, data[count++] = byte;
            break;
        case OPTION:
            state = DATA;
            break;
        case INSIDE:
            if (byte == 255) state = COMMAND_INSIDE;
            break;
        case COMMAND_INSIDE:
            state = byte == 240 ? DATA : INSIDE;
        }
    }
    return count;
}

/* How long the UTF-8 character at the start is, and which; of what is none, as many bytes as could have begun one. */
static int decode(const unsigned char *at, int size, unsigned *code) {
    int missing = *at < 0xC2 ? 0 : *at < 0xE0 ? 1 : *at < 0xF0 ? 2 : *at < 0xF5 ? 3 : 0, length = 1;
    int low = *at == 0xE0 ? 0xA0 : *at == 0xF0 ? 0x90 : 0x80, high = *at == 0xED ? 0x9F : *at == 0xF4 ? 0x8F : 0xBF;
    if (*at < 0x80) return *code = *at, 1;
    *code = *at & (0x3F >> missing);
    for (; missing && length < size && at[length] >= low && at[length] <= high; missing--, low = 0x80, high = 0xBF)
        *code = *code << 6 | (at[length++] & 0x3F);
    if (missing || *at < 0xC2 || *at > 0xF4) *code = 0xFFFD;
    return length;
}

static int is_unsafe(unsigned code) {
    return (code < 0x20 && code != '\t') || (code >= 0x7F && code < 0xA0) || (code >= 0x202A && code <= 0x202E) ||
           (code >= 0x2066 && code <= 0x2069);
}

static int is_space(unsigned code) {
    return code == ' ' || code == '\t' || code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) ||
           code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

static void message(struct client *sender, const unsigned char *line, int size) {
    unsigned char bytes[2 * MAX_MESSAGE];
    char said[4 * MAX_MESSAGE];
    int length = without_telnet(line, size, bytes), blank = 1, count = sprintf(said, "%s says: ", sender->name);
    unsigned code;
    for (int i = 0, taken; i < length; i += taken) {
        taken = decode(bytes + i, length - i, &code);
        if (is_unsafe(code)) continue;
        blank = blank && is_space(code);
        memcpy(said + count, code == 0xFFFD ? "\xEF\xBF\xBD" : (char *)bytes + i, code == 0xFFFD ? 3 : taken);
        count += code == 0xFFFD ? 3 : taken;
    }
    said[count++] = '\n';
    for (struct client *other = clients; other && !blank; other = other->next)
        if (other != sender) tell(other, said, count);
}

static void too_long(struct client *client) {
    tell(client, TOO_LONG, strlen(TOO_LONG));
    drop(client, "dropped: message too long");
}

static void receive(struct client *client) {
    ssize_t count = recv(client->fd, client->line + client->got, MAX_MESSAGE, 0);
    if (count < 0) {
        if (errno != EAGAIN) drop(client, "dropped: connection reset by peer");
        return;
    }
    unsigned char *start = client->line, *end = start + client->got + count, *newline;
    unsigned char *interrupt = memmem(start, end - start, "\xFF\xF4", 2);
    if (interrupt) end = interrupt;
    for (; (newline = memchr(start, '\n', end - start)); start = newline + 1) {
        if (newline - start >= MAX_MESSAGE) {
            too_long(client);
            return;
        }
        message(client, start, newline - start);
    }
    client->got = end - start;
    memmove(client->line, start, client->got);
    if (interrupt)
        drop(client, "left");
    else if (client->got > MAX_MESSAGE)
        too_long(client);
    else if (!count) {
        /* The end of the stream had come before the reset, if a send failed with EPIPE. */
        if (!client->failed || client->failed == EPIPE) message(client, client->line, client->got);
        if (client->count) flush(client);
        drop(client, "left");
    }
}

static void welcome(int fd, struct sockaddr_in *address) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    struct client *client = fd + KEPT_BACK < (int)limit.rlim_cur ? calloc(1, sizeof *client) : NULL;
    char name[32];
    snprintf(name, sizeof name, "%s:%d", inet_ntoa(address->sin_addr), ntohs(address->sin_port));
    if (!client) {
        note(name, "refused: the room is full", online);
        send(fd, FULL, strlen(FULL), MSG_NOSIGNAL);
        close(fd);
        return;
    }
    client->fd = fd;
    strcpy(client->name, name);
    client->next = clients;
    clients = client;
    watch(client);
    note(name, "joined", ++online);
}

static int listen_on(int port) {
    int yes = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {AF_INET, htons(port), {htonl(INADDR_LOOPBACK)}, {0}};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes); /* whom it accepts inherits these */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 1024)) {
        fprintf(stderr, "chat: cannot listen on 127.0.0.1:%d: %s\n", port, strerror(errno));
        exit(1);
    }
    char text[50];
    socklen_t size = sizeof address;
    getsockname(fd, (struct sockaddr *)&address, &size);
    snprintf(text, sizeof text, "listening on 127.0.0.1:%d", ntohs(address.sin_port));
    note("", text, -1);
    return fd;
}

int main(int count, char **words) {
    char *end = "x";
    long port = count == 2 ? strtol(words[1], &end, 10) : -1;
    while (open("/dev/null", O_RDWR) <= 2) /* where the log is closed no client's socket may become it */
        ;
    if (count != 2 || *end || !*words[1] || strspn(words[1], "0123456789") != strlen(words[1]) || port > 65535) {
        fprintf(stderr, "usage: chat PORT\n");
        return 2;
    }
    sigset_t stops;
    sigemptyset(&stops);
    sigaddset(&stops, SIGINT);
    sigaddset(&stops, SIGTERM);
    sigprocmask(SIG_BLOCK, &stops, NULL);
    signal(SIGPIPE, SIG_IGN);
    int stop = signalfd(-1, &stops, SFD_NONBLOCK), listener = listen_on(port), listening = 1;
    epoll = epoll_create1(0);
    struct epoll_event ask = {EPOLLIN, {.ptr = &stop}}, events[64];
    epoll_ctl(epoll, EPOLL_CTL_ADD, stop, &ask);
    ask.data.ptr = &listener;
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &ask);
    for (int stopping = 0; !stopping; forget_the_gone()) {
        int ready = epoll_wait(epoll, events, 64, listening ? -1 : 200);
        if (!listening) epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &ask), listening = 1;
        for (int i = 0; i < ready; i++) {
            struct client *client = events[i].data.ptr;
            if (events[i].data.ptr == &stop)
                stopping = 1;
            else if (events[i].data.ptr == &listener) {
                struct sockaddr_in address;
                socklen_t size = sizeof address;
                int fd = accept4(listener, (struct sockaddr *)&address, &size, SOCK_NONBLOCK);
                if (fd >= 0)
                    welcome(fd, &address);
                else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
                    epoll_ctl(epoll, EPOLL_CTL_DEL, listener, NULL), listening = 0;
            } else {
                if (!client->gone && events[i].events & EPOLLOUT) flush(client);
                if (!client->gone && events[i].events & ~EPOLLOUT) receive(client);
            }
        }
    }
    close(listener);
    for (struct client *client = clients; client; client = client->next) {
        if (!client->gone && client->count) flush(client);
        drop(client, "dropped: server stopping");
    }
    note("", "bye", -1);
    return 0;
}
