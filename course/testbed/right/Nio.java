// A chat server in Java that keeps the contract: one thread, java.nio, unsent bytes kept for each client. It is one of
// those that check.py must find nothing wrong with.
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.StandardSocketOptions;
import java.nio.ByteBuffer;
import java.nio.channels.*;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.time.LocalTime;
import java.util.*;

public class Nio {
    static final int MAX_MESSAGE = 4096, MAX_UNSENT = 1 << 20;
    static final byte[] TOO_LONG = bytes("error: a message may be at most 4096 bytes\n");

    static class Client {
        SocketChannel channel;
        SelectionKey key;
        String name;
        byte[] received = new byte[0];
        ArrayDeque<ByteBuffer> unsent = new ArrayDeque<>();
        int waiting;
        String failure;
    }

    static Selector selector;
    static final Set<Client> clients = new LinkedHashSet<>();
    static volatile boolean stopping, stopped;

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static void say(String text) {
        System.err.println(LocalTime.now().toString().substring(0, 8) + " " + text);
    }

    static int room() {
        try {
            for (String line : Files.readAllLines(Path.of("/proc/self/limits")))
                if (line.startsWith("Max open files")) return Math.min(10000, Integer.parseInt(line.split("\\s+")[3]) - 40);
        } catch (IOException | NumberFormatException e) {
            return 200;
        }
        return 200;
    }

    static byte[] withoutTelnet(byte[] line, int start, int end) {
        ByteArrayOutputStream data = new ByteArrayOutputStream();
        for (int i = start; i < end; i++) {
            int b = line[i] & 0xFF, next = i + 1 < end ? line[i + 1] & 0xFF : -1;
            if (b != 0xFF) data.write(b);
            else if (next < 0) break;
            else if (next == 0xFF) { data.write(0xFF); i++; }
            else if (next >= 0xFB) i += 2;
            else if (next == 0xFA) {
                i += 2;
                while (i < end && !((line[i] & 0xFF) == 0xFF && (i + 1 == end || (line[i + 1] & 0xFF) == 0xF0)))
                    i += (line[i] & 0xFF) == 0xFF ? 2 : 1;
                i++;
            } else if (next >= 0xEC) i++;
            else data.write(0xFF);
        }
        return data.toByteArray();
    }

    static void message(Client sender, int start, int end) {
        String text = new String(withoutTelnet(sender.received, start, end), StandardCharsets.UTF_8)
            .replaceAll("[\\x00-\\x08\\x0a-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]", "");
        if (text.replace('\u00a0', ' ').isBlank()) return;
        byte[] line = bytes(sender.name + " says: " + text + "\n");
        for (Client client : clients) if (client != sender) put(client, line);
    }

    static void put(Client client, byte[] data) {
        if (client.failure != null) return;
        client.unsent.add(ByteBuffer.wrap(data));
        client.waiting += data.length;
        flush(client);
    }

    // A client that cannot be sent to is not dropped here: what it had said before may still be unread.
    static void flush(Client client) {
        try {
            while (!client.unsent.isEmpty()) {
                ByteBuffer first = client.unsent.peek();
                client.waiting -= client.channel.write(first);
                if (first.hasRemaining()) break;
                client.unsent.remove();
            }
        } catch (IOException e) {
            fail(client, String.valueOf(e.getMessage()).contains("Broken pipe") ? "gone" : "dropped: connection reset by peer");
            return;
        }
        if (client.waiting > MAX_UNSENT) fail(client, "dropped: too slow");
        else client.key.interestOps(SelectionKey.OP_READ | (client.unsent.isEmpty() ? 0 : SelectionKey.OP_WRITE));
    }

    static void fail(Client client, String why) {
        client.failure = why;
        client.unsent.clear();
        client.waiting = 0;
        client.key.interestOps(SelectionKey.OP_READ);
        try {
            client.channel.shutdownOutput();
            if (!why.equals("gone")) client.channel.shutdownInput();
        } catch (IOException e) {
            // it has gone
        }
    }

    static void drop(Client client, String why, byte[] last) {
        if (!clients.remove(client)) return;
        say(client.name + " " + why + ", " + clients.size() + " online");
        try {
            for (ByteBuffer data : client.unsent) if (client.channel.write(data) == 0) break;
            if (last != null) client.channel.write(ByteBuffer.wrap(last));
        } catch (IOException e) {
            // it has gone
        }
        try {
            client.channel.close();
        } catch (IOException e) {
            // it is closed
        }
    }

    static final ByteBuffer buffer = ByteBuffer.allocateDirect(MAX_MESSAGE);

    static void receive(Client client) {
        int got;
        buffer.clear();
        try {
            got = client.channel.read(buffer);
        } catch (IOException e) {
            drop(client, "dropped: connection reset by peer", null);
            return;
        }
        buffer.flip();
        int old = client.received.length, end = old + Math.max(got, 0), start = 0;
        client.received = Arrays.copyOf(client.received, end);
        buffer.get(client.received, old, end - old);
        boolean interrupted = false;
        for (int i = Math.max(0, old - 1); i + 1 < end && !interrupted; i++)
            if ((client.received[i] & 0xFF) == 0xFF && (client.received[i + 1] & 0xFF) == 0xF4) {
                interrupted = true;
                end = i;
            }
        for (int i = start; i < end; i++)
            if (client.received[i] == '\n') {
                if (i - start >= MAX_MESSAGE) {
                    drop(client, "dropped: message too long", TOO_LONG);
                    return;
                }
                message(client, start, i);
                start = i + 1;
            }
        if (end - start > MAX_MESSAGE) drop(client, "dropped: message too long", TOO_LONG);
        else if (interrupted) drop(client, "left", null);
        else if (got < 0) {
            if (client.failure == null || client.failure.equals("gone")) message(client, start, end);
            drop(client, client.failure == null || client.failure.equals("gone") ? "left" : client.failure, null);
        } else client.received = Arrays.copyOfRange(client.received, start, end);
    }

    public static void main(String[] args) throws Exception {
        int port = args.length > 0 ? Integer.parseInt(args[0]) : 9669, room = room();
        selector = Selector.open();
        ServerSocketChannel listener = ServerSocketChannel.open();
        listener.setOption(StandardSocketOptions.SO_REUSEADDR, true);
        try {
            listener.bind(new InetSocketAddress("127.0.0.1", port), 1024);
        } catch (IOException e) {
            System.err.println("Nio: cannot listen on 127.0.0.1:" + port + ": " + e.getMessage());
            System.exit(1);
        }
        listener.configureBlocking(false);
        SelectionKey welcome = listener.register(selector, SelectionKey.OP_ACCEPT);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            stopping = true;
            selector.wakeup();
            for (int i = 0; i < 150 && !stopped; i++)
                try { Thread.sleep(10); } catch (InterruptedException e) { break; }
            Runtime.getRuntime().halt(0);
        }));
        say("listening on 127.0.0.1:" + port);
        while (!stopping) {
            selector.select();
            for (SelectionKey key : selector.selectedKeys()) {
                if (key == welcome || !key.isValid()) continue;
                Client client = (Client) key.attachment();
                if (key.isWritable()) flush(client);
                if (key.isValid() && key.isReadable()) receive(client);
            }
            if (selector.selectedKeys().contains(welcome)) {
                SocketChannel channel;
                try {
                    channel = listener.accept();
                } catch (IOException e) {
                    Thread.sleep(10);
                    continue;
                }
                if (channel != null) accept(channel, room);
            }
            selector.selectedKeys().clear();
        }
        listener.close();
        for (Client client : new ArrayList<>(clients)) drop(client, "dropped: server stopping", null);
        say("bye");
        stopped = true;
        Thread.sleep(10000);
    }

    static void accept(SocketChannel channel, int room) throws IOException {
        channel.configureBlocking(false);
        if (clients.size() >= room) {
            try {
                channel.write(ByteBuffer.wrap(bytes("error: the room is full\n")));
            } catch (IOException e) {
                // it has gone
            }
            channel.close();
            return;
        }
        Client client = new Client();
        try {
            channel.setOption(StandardSocketOptions.TCP_NODELAY, true);
            channel.setOption(StandardSocketOptions.SO_KEEPALIVE, true);
            InetSocketAddress address = (InetSocketAddress) channel.getRemoteAddress();
            client.name = address.getAddress().getHostAddress() + ":" + address.getPort();
        } catch (IOException e) {
            channel.close();
            return;
        }
        client.channel = channel;
        client.key = channel.register(selector, SelectionKey.OP_READ, client);
        clients.add(client);
        say(client.name + " joined, " + clients.size() + " online");
    }
}
