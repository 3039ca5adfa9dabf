// A chat server, one thread for each client. What a client says is not relayed so far.
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;

public class Server {
    static void serve(Socket socket) {
        String name = socket.getInetAddress().getHostAddress() + ":" + socket.getPort();
        System.err.println(name + " joined");
        byte[] data = new byte[4096];
        try (socket) {
            while (socket.getInputStream().read(data) >= 0) {
                // TODO: some bytes came: not a line, and not a message. Make lines of them, and send each to all the others.
            }
        } catch (IOException e) {
            // it has left with a reset
        }
    }

    public static void main(String[] arguments) throws IOException {
        int port = Integer.parseInt(arguments[0]);
        try (ServerSocket listener = new ServerSocket(port, 128, InetAddress.getByName("127.0.0.1"))) {
            System.err.println("listening on 127.0.0.1:" + port);
            while (true) {
                Socket socket = listener.accept();
                Thread thread = new Thread(() -> serve(socket));
                thread.setDaemon(true);
                thread.start();
            }
        } catch (IOException e) {
            System.err.println("Server: cannot listen on 127.0.0.1:" + port + ": " + e.getMessage());
            System.exit(1);
        }
    }
}
