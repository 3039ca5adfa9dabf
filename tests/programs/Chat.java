import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.net.BindException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.StandardSocketOptions;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.time.LocalTime;
import java.time.format.DateTimeFormatter;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashSet;
import java.util.Set;
import java.util.regex.Pattern;

/**
 * A right chat server in Java, with NIO and its default sockets: the suite must have nothing against it.
 *
 * <p>javac Chat.java && java -Xmx64m Chat PORT
 */
public class Chat {
    static final int MAX_MESSAGE = 4096;
    static final int MAX_UNSENT = 1 << 20;
    static final int KEPT_BACK = 30; // descriptors that the machine itself may need
    static final byte[] TOO_LONG = "error: a message may be at most 4096 bytes\n".getBytes();
    static final byte[] FULL = "error: the room is full\n".getBytes();
    static final Pattern TELNET = Pattern.compile(
        "\\xff(?:\\xfa(?:[^\\xff]|\\xff[^\\xf0])*+(?:\\xff?\\z|\\xff\\xf0)|[\\xfb-\\xfe](?:.|\\z)|[\\xec-\\xf9]|\\z|(\\xff))",
        Pattern.DOTALL);
    static final Pattern UNSAFE =
        Pattern.compile("[\\x00-\\x08\\x0a-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069]");

    /** One connection. */
    class Client {
        final SocketChannel channel;
        final SelectionKey key;
        final String name;
        byte[] received = new byte[0];
        byte[] unsent = new byte[0];
        int first = 0, last = 0; // of what is unsent
        boolean failed = false, reset = false;

        Client(SocketChannel channel, String name) throws IOException {
            this.channel = channel;
            this.name = name;
            key = channel.register(selector, SelectionKey.OP_READ, this);
        }
    }

    final Selector selector = Selector.open();
    final ServerSocketChannel listener = ServerSocketChannel.open();
    final Set<Client> room = new LinkedHashSet<>();
    final ByteBuffer buffer = ByteBuffer.allocateDirect(4096);
    final com.sun.management.UnixOperatingSystemMXBean system =
        (com.sun.management.UnixOperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    volatile boolean stopping = false;
    boolean listening = true;

    Chat() throws IOException {}

    static void note(String text) {
        System.err.println(LocalTime.now().format(DateTimeFormatter.ofPattern("HH:mm:ss")) + " " + text);
    }

    void run(int port) throws IOException {
        listener.bind(new InetSocketAddress(InetAddress.getByName("127.0.0.1"), port), 1024);
        listener.configureBlocking(false);
        SelectionKey newcomers = listener.register(selector, SelectionKey.OP_ACCEPT);
        note("listening on 127.0.0.1:" + ((InetSocketAddress) listener.getLocalAddress()).getPort());
        while (!stopping) {
            selector.select(listening ? 0 : 200);
            if (!listening) {
                newcomers.interestOps(SelectionKey.OP_ACCEPT);
                listening = true;
            }
            for (SelectionKey key : selector.selectedKeys()) {
                if (key == newcomers) {
                    accept(newcomers);
                } else {
                    serve((Client) key.attachment());
                }
            }
            selector.selectedKeys().clear();
        }
        listener.close();
        for (Client client : new ArrayList<>(room)) {
            flush(client);
            drop(client, "dropped: server stopping");
        }
        note("bye");
    }

    void accept(SelectionKey newcomers) throws IOException {
        SocketChannel channel;
        try {
            channel = listener.accept();
        } catch (IOException error) { // no descriptor can be had
            newcomers.interestOps(0);
            listening = false;
            return;
        }
        if (channel == null) {
            return;
        }
        try {
            InetSocketAddress address = (InetSocketAddress) channel.getRemoteAddress();
            String name = address.getAddress().getHostAddress() + ":" + address.getPort();
            channel.configureBlocking(false);
            if (system.getOpenFileDescriptorCount() + KEPT_BACK > system.getMaxFileDescriptorCount()) {
                note(name + " refused: the room is full, " + room.size() + " online");
                channel.write(ByteBuffer.wrap(FULL));
                channel.close();
                return;
            }
            channel.setOption(StandardSocketOptions.TCP_NODELAY, true);
            channel.setOption(StandardSocketOptions.SO_KEEPALIVE, true);
            room.add(new Client(channel, name));
            note(name + " joined, " + room.size() + " online");
        } catch (IOException error) { // it has left already
            channel.close();
        }
    }

    void serve(Client client) throws IOException {
        if (client.key.isValid() && client.key.isWritable()) {
            flush(client);
        }
        if (client.key.isValid() && client.key.isReadable()) {
            receive(client);
        }
    }

    void receive(Client client) throws IOException {
        buffer.clear();
        int count;
        try {
            count = client.channel.read(buffer);
        } catch (IOException error) {
            drop(client, "dropped: connection reset by peer");
            return;
        }
        int size = client.received.length + Math.max(count, 0), start = 0, end = size;
        byte[] data = Arrays.copyOf(client.received, size);
        buffer.flip();
        buffer.get(data, client.received.length, Math.max(count, 0));
        for (int i = 0; i + 1 < size && end == size; i++) {
            if (data[i] == (byte) 0xff && data[i + 1] == (byte) 0xf4) {
                end = i;
            }
        }
        boolean interrupted = end < size;
        for (int i = start; i < end; i++) {
            if (data[i] == '\n') {
                if (i - start >= MAX_MESSAGE) {
                    tooLong(client);
                    return;
                }
                message(client, data, start, i);
                start = i + 1;
            }
        }
        client.received = Arrays.copyOfRange(data, start, end);
        if (interrupted) {
            drop(client, "left");
        } else if (client.received.length > MAX_MESSAGE) {
            tooLong(client);
        } else if (count < 0) {
            if (!client.reset) {
                message(client, data, start, end);
            }
            flush(client);
            drop(client, "left");
        }
    }

    void message(Client sender, byte[] data, int start, int end) throws IOException {
        String line = new String(data, start, end - start, StandardCharsets.ISO_8859_1);
        byte[] bytes = TELNET.matcher(line).replaceAll("$1").getBytes(StandardCharsets.ISO_8859_1);
        String text = UNSAFE.matcher(new String(bytes, StandardCharsets.UTF_8)).replaceAll("");
        if (text.codePoints().allMatch(code -> Character.isWhitespace(code) || Character.isSpaceChar(code))) {
            return;
        }
        byte[] said = (sender.name + " says: " + text + "\n").getBytes(StandardCharsets.UTF_8);
        for (Client client : new ArrayList<>(room)) {
            if (client != sender) {
                tell(client, said);
            }
        }
    }

    void tooLong(Client client) throws IOException {
        tell(client, TOO_LONG);
        drop(client, "dropped: message too long");
    }

    void tell(Client client, byte[] data) throws IOException {
        if (client.failed || !client.channel.isOpen()) {
            return;
        }
        int unsent = client.last - client.first;
        if (client.last + data.length > client.unsent.length) {
            byte[] more = new byte[unsent + data.length + (unsent > 0 ? unsent : 0)];
            System.arraycopy(client.unsent, client.first, more, 0, unsent);
            client.unsent = more;
            client.first = 0;
            client.last = unsent;
        }
        System.arraycopy(data, 0, client.unsent, client.last, data.length);
        client.last += data.length;
        if (unsent == 0) {
            flush(client);
        }
        if (client.last - client.first > MAX_UNSENT) {
            drop(client, "dropped: too slow");
        }
    }

    void flush(Client client) throws IOException {
        if (client.last > client.first) {
            try {
                // Not all at once: Java keeps a buffer as big as what it is to send.
                int size = Math.min(client.last - client.first, 65536);
                client.first += client.channel.write(ByteBuffer.wrap(client.unsent, client.first, size));
            } catch (IOException error) { // its last words may be unread: it is read to its end
                client.failed = true;
                client.reset = !"Broken pipe".equals(error.getMessage()); // else the end of the stream came before
                client.first = client.last;
                client.channel.shutdownOutput();
            }
        }
        if (client.first == client.last) {
            client.unsent = new byte[0];
            client.first = client.last = 0;
        }
        int write = client.last > client.first ? SelectionKey.OP_WRITE : 0;
        client.key.interestOps(SelectionKey.OP_READ | write);
    }

    void drop(Client client, String why) throws IOException {
        if (room.remove(client)) {
            client.channel.close();
            note(client.name + " " + why + ", " + room.size() + " online");
        }
    }

    public static void main(String[] words) throws IOException {
        if (words.length != 1 || !words[0].matches("[0-9]{1,5}") || Integer.parseInt(words[0]) > 65535) {
            System.err.println("usage: java Chat PORT");
            System.exit(2);
        }
        Chat chat = new Chat();
        for (String name : new String[] {"INT", "TERM"}) {
            try {
                sun.misc.Signal.handle(new sun.misc.Signal(name), signal -> {
                    chat.stopping = true;
                    chat.selector.wakeup();
                });
            } catch (IllegalArgumentException error) { // it is ignored, by whoever started it
            }
        }
        try {
            chat.run(Integer.parseInt(words[0]));
        } catch (BindException error) {
            System.err.println("Chat: cannot listen on 127.0.0.1:" + words[0] + ": " + error.getMessage());
            System.exit(1);
        }
        System.exit(0);
    }
}
