/* The limit: the chat of this repository in C, with the same loop design as the Python servers, so that their speed can be
 * read as a share of what the machine can do. Not a server to learn from or to deploy: memory that runs out ends it.
 *
 *     cc -O2 -o limit bench/limit.c && ./limit 9669
 *
 * One turn of the loop reads every ready client once, writes down once what was said, and then gives each client all of it
 * but its own words (one slice, since it is read once a turn) in one system call. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { MAX_MESSAGE = 4096, MAX_UNSENT = 1 << 20, READ_SIZE = 4096, KEPT_BACK = 16, EVENTS = 1024, NAME_SIZE = 32 };

struct bytes { char *data; size_t size, room; };

struct client {
    int fd, index, gone, watched;        /* index: its place in the room; watched: we asked for EPOLLOUT */
    char name[NAME_SIZE];
    char received[MAX_MESSAGE];          /* the start of a line whose end is still to come */
    size_t received_size;
    size_t said, said_end;               /* its own slice of the turn's record */
    struct bytes unsent;                 /* what the socket would not take yet */
};

static struct client **room, **freed;    /* freed: who left in this turn; until its end events may point at them */
static int online, room_size, freed_count, epoll_fd;
static struct bytes record;              /* what was said in this turn, ready to send */
static volatile sig_atomic_t stopping;

static void stop(int signal_number) { stopping = signal_number; }

static void say(const char *format, ...) {
    char line[256], stamp[16];
    time_t now = time(NULL);
    va_list values;
    va_start(values, format);
    vsnprintf(line, sizeof line, format, values);
    va_end(values);
    strftime(stamp, sizeof stamp, "%H:%M:%S", localtime(&now));
    fprintf(stderr, "%s %s\n", stamp, line);
}

static char *reserve(struct bytes *bytes, size_t more) {
    if (bytes->size + more > bytes->room) {
        bytes->room = (bytes->size + more) * 2;
        bytes->data = realloc(bytes->data, bytes->room);
        if (!bytes->data) abort();
    }
    return bytes->data + bytes->size;
}

static void append(struct bytes *bytes, const char *data, size_t size) {
    memcpy(reserve(bytes, size), data, size);
    bytes->size += size;
}

static void drop(struct client *client, const char *why) {
    if (client->gone) return;
    client->gone = 1;
    if (client->unsent.size) send(client->fd, client->unsent.data, client->unsent.size, MSG_DONTWAIT | MSG_NOSIGNAL);
    close(client->fd);
    room[client->index] = room[--online];
    room[client->index]->index = client->index;
    freed[freed_count++] = client;
    if (why) say("%s dropped: %s, %d online", client->name, why, online);
    else say("%s left, %d online", client->name, online);
}

/* Telnet commands, controls but the tab, and bidirectional overrides are left out; what is no UTF-8 becomes U+FFFD. */
static size_t clean(const unsigned char *text, size_t size, char *out) {
    char *start = out;
    for (size_t i = 0; i < size;) {
        unsigned char byte = text[i];
        if (byte == 0xff) {
            unsigned char command = i + 1 < size ? text[i + 1] : 0xf0;
            if (command == 0xfa) {
                for (i += 2; i < size && !(text[i] == 0xff && i + 1 < size && text[i + 1] == 0xf0); i++) {}
                i += 2;
                continue;
            }
            if (command >= 0xf0 && command < 0xff) { i += command > 0xfa ? 3 : 2; continue; }
            i += command == 0xff;
        }
        if (byte < 0x80) {
            if (byte == '\t' || (byte >= 0x20 && byte != 0x7f)) *out++ = (char)byte;
            i++;
            continue;
        }
        size_t length = byte >= 0xc2 && byte < 0xe0 ? 2 : byte >= 0xe0 && byte < 0xf0 ? 3 : byte >= 0xf0 && byte < 0xf5 ? 4 : 0;
        unsigned code = byte & (0x7f >> length), valid = length && i + length <= size;
        for (size_t k = 1; valid && k < length; k++) {
            valid = (text[i + k] & 0xc0) == 0x80;
            code = code << 6 | (text[i + k] & 0x3f);
        }
        if (valid && length == 3) valid = code >= 0x800 && (code < 0xd800 || code > 0xdfff);
        if (valid && length == 4) valid = code >= 0x10000 && code <= 0x10ffff;
        if (!valid) { memcpy(out, "\xef\xbf\xbd", 3); out += 3; i++; continue; }
        if (code >= 0xa0 && !(code >= 0x202a && code <= 0x202e) && !(code >= 0x2066 && code <= 0x2069)) {
            memcpy(out, text + i, length);
            out += length;
        }
        i += length;
    }
    return (size_t)(out - start);
}

static void broadcast(struct client *client, const char *line, size_t size) {
    char *out = reserve(&record, NAME_SIZE + 8 + 3 * size), *text = out;
    if (size && line[size - 1] == '\0') size--;
    if (size && line[size - 1] == '\r') size--;
    text = stpcpy(stpcpy(text, client->name), " says: ");
    size_t length = clean((const unsigned char *)line, size, text);
    text[length] = '\0';
    if (strspn(text, " \t") == length) return;
    text[length] = '\n';
    record.size += (size_t)(text - out) + length + 1;
}

static void receive(struct client *client) {
    char data[MAX_MESSAGE + READ_SIZE];
    size_t old = client->received_size, start = 0;
    ssize_t got = recv(client->fd, data + old, READ_SIZE, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got < 0) { drop(client, strerror(errno)); return; }
    memcpy(data, client->received, old);
    size_t end = old + (size_t)got;
    client->said = record.size;
    char *interrupt = memmem(data, end, "\xff\xf4", 2), *newline;
    if (interrupt) end = (size_t)(interrupt - data);
    while ((newline = memchr(data + start, '\n', end - start)) && (size_t)(newline - data) - start < MAX_MESSAGE) {
        broadcast(client, data + start, (size_t)(newline - data) - start);
        start = (size_t)(newline - data) + 1;
    }
    client->received_size = end - start;
    if (interrupt) {
        drop(client, "interrupted");
    } else if (newline || end - start > MAX_MESSAGE) {
        send(client->fd, "error: a message may be at most 4096 bytes\n", 43, MSG_DONTWAIT | MSG_NOSIGNAL);
        drop(client, "message too long");
    } else if (got == 0) {
        broadcast(client, data + start, end - start);
        drop(client, NULL);
    } else {
        memcpy(client->received, data + start, end - start);
    }
    client->said_end = record.size;
}

static void watch(struct client *client, int writable) {
    if (client->watched == writable) return;
    struct epoll_event event = {.events = EPOLLIN | (writable ? EPOLLOUT : 0), .data.ptr = client};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, client->fd, &event);
    client->watched = writable;
}

/* Two pieces in one system call; what the socket does not take is kept. */
static void give(struct client *client, const char *head, size_t head_size, const char *tail, size_t tail_size) {
    struct iovec pieces[2] = {{(char *)head, head_size}, {(char *)tail, tail_size}};
    struct msghdr message = {.msg_iov = head_size ? pieces : pieces + 1, .msg_iovlen = 1 + (head_size && tail_size)};
    ssize_t sent = 0;
    if (head_size + tail_size == 0) return;
    if (!client->unsent.size) {
        if (tail_size == 0) message.msg_iov = pieces;
        sent = sendmsg(client->fd, &message, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN && errno != EINTR) { drop(client, strerror(errno)); return; }
        if (sent < 0) sent = 0;
        if ((size_t)sent == head_size + tail_size) return;
    }
    size_t skipped = (size_t)sent < head_size ? (size_t)sent : head_size;
    append(&client->unsent, head + skipped, head_size - skipped);
    append(&client->unsent, tail + (sent - skipped), tail_size - ((size_t)sent - skipped));
    if (client->unsent.size > MAX_UNSENT) drop(client, "too slow");
    else watch(client, 1);
}

static void flush(struct client *client) {
    struct bytes *unsent = &client->unsent;
    ssize_t sent = send(client->fd, unsent->data, unsent->size, MSG_NOSIGNAL);
    if (sent < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (sent < 0) { drop(client, strerror(errno)); return; }
    unsent->size -= (size_t)sent;
    memmove(unsent->data, unsent->data + sent, unsent->size);
    if (!unsent->size) watch(client, 0);
}

static void join(int listener) {
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    int fd = accept4(listener, (struct sockaddr *)&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    if (online == room_size) {
        send(fd, "error: the room is full\n", 24, MSG_NOSIGNAL);
        close(fd);
        return;
    }
    struct client *client = calloc(1, sizeof *client);
    if (!client) abort();
    client->fd = fd;
    client->index = online;
    snprintf(client->name, sizeof client->name, "%s:%d", inet_ntoa(address.sin_addr), ntohs(address.sin_port));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
    room[online++] = client;
    say("%s joined, %d online", client->name, online);
}

static void run(int listener, const sigset_t *unblocked) {
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event);
    while (!stopping) {
        int ready = epoll_pwait(epoll_fd, events, EVENTS, -1, unblocked), newcomer = 0;
        for (int i = 0; i < ready; i++) {
            struct client *client = events[i].data.ptr;
            if (!client) { newcomer = 1; continue; }
            if (events[i].events & EPOLLOUT) flush(client);
            if (!client->gone && events[i].events & ~EPOLLOUT) receive(client);
        }
        for (int i = 0; record.size && i < online;) {
            struct client *client = room[i];
            give(client, record.data, client->said, record.data + client->said_end, record.size - client->said_end);
            client->said = client->said_end = 0;
            i += !client->gone;                                      /* drop() puts the last one in its place */
        }
        record.size = 0;
        while (freed_count) {
            free(freed[--freed_count]->unsent.data);
            free(freed[freed_count]);
        }
        if (newcomer) join(listener);
    }
}

int main(int argc, char **argv) {
    int port = argc > 1 ? atoi(argv[1]) : 9669, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof address;
    struct rlimit limit;
    sigset_t signals, unblocked;

    getrlimit(RLIMIT_NOFILE, &limit);
    room_size = (int)limit.rlim_cur - KEPT_BACK;
    room = calloc((size_t)room_size, sizeof *room);
    freed = calloc((size_t)room_size, sizeof *freed);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(listener, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);    /* accepted sockets inherit these */
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 1024)) {
        fprintf(stderr, "limit: cannot listen on 127.0.0.1:%d: %s\n", port, strerror(errno));
        return 1;
    }
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, &unblocked);                      /* delivered inside epoll_pwait alone */
    sigdelset(&unblocked, SIGINT);
    sigdelset(&unblocked, SIGTERM);
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    getsockname(listener, (struct sockaddr *)&address, &size);
    say("listening on 127.0.0.1:%d", ntohs(address.sin_port));
    run(listener, &unblocked);
    while (online) {
        freed_count = 0;
        drop(room[online - 1], "server stopping");
    }
    say("bye");
    return 0;
}
