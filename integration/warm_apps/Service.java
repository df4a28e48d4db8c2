// A service that loads some thousand classes and compiles code at its start, as servers with templates do, asks itself
// over loopback until that works, and then answers everybody's HTTP: java Service PORT
import com.sun.net.httpserver.HttpServer;
import java.io.InputStream;
import java.net.InetSocketAddress;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileSystem;
import java.nio.file.FileSystems;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.Executors;
import java.util.stream.Stream;
import javax.tools.JavaCompiler;
import javax.tools.JavaFileObject;
import javax.tools.SimpleJavaFileObject;
import javax.tools.ToolProvider;

public class Service {
  static int load(String module, String below, int most) throws Exception {
    FileSystem runtime = FileSystems.getFileSystem(URI.create("jrt:/"));
    List<Path> found;
    try (Stream<Path> all = Files.walk(runtime.getPath("modules", module, below))) {
      found = all.filter(p -> p.toString().endsWith(".class") && !p.toString().contains("-info")).sorted().limit(most).toList();
    }
    Path root = runtime.getPath("modules", module);
    int count = 0;
    for (Path file : found) {
      String name = root.relativize(file).toString().replace('/', '.');
      try {
        Class.forName(name.substring(0, name.length() - 6), false, ClassLoader.getSystemClassLoader()).getDeclaredMethods();
        count++;
      } catch (Throwable unloadable) {
        continue;
      }
    }
    return count;
  }

  static class Source extends SimpleJavaFileObject {
    final String text;
    Source(String name, String text) {
      super(URI.create("string:///" + name + ".java"), Kind.SOURCE);
      this.text = text;
    }
    @Override public CharSequence getCharContent(boolean ignored) { return text; }
  }

  static int compile(int count) {
    JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
    int good = 0;
    for (int i = 0; i < count && compiler != null; i++) {
      String name = "Page" + i;
      JavaFileObject page = new Source(name, "import java.util.*; import java.util.stream.*; class " + name
          + " { String render(Map<String, List<String>> m) { return m.entrySet().stream().map(e -> e.getKey() + e.getValue())"
          + ".sorted().collect(Collectors.joining(\",\")); } }");
      if (compiler.getTask(null, null, d -> {}, List.of("-proc:none", "-implicit:none", "-d", "/tmp"), null, List.of(page)).call()) good++;
    }
    return good;
  }

  public static void main(String[] arguments) throws Exception {
    int classes = load("java.base", "java/util", 2000) + load("java.base", "java/time", 500) + load("java.base", "java/nio", 800)
        + load("java.base", "sun/security", 1500) + load("java.xml", "com", 2000);
    int pages = compile(40);
    String body = String.format(Locale.ROOT, "{\"classes\": %d, \"pages\": %d}", classes, pages);
    HttpServer itself = serve("127.0.0.1", 0, body);
    for (int i = 0; i < 20; i++) {
      try (InputStream answer = URI.create("http://127.0.0.1:" + itself.getAddress().getPort() + "/").toURL().openStream()) {
        if (answer.readAllBytes().length != body.length()) System.exit(1);
      }
    }
    itself.stop(0);
    serve("0.0.0.0", Integer.parseInt(arguments[0]), body);
  }

  static HttpServer serve(String address, int port, String body) throws Exception {
    HttpServer server = HttpServer.create(new InetSocketAddress(address, port), 0);
    server.createContext("/", exchange -> {
      byte[] bytes = body.getBytes(StandardCharsets.UTF_8);
      exchange.sendResponseHeaders(200, bytes.length);
      exchange.getResponseBody().write(bytes);
      exchange.close();
    });
    server.setExecutor(Executors.newFixedThreadPool(2));
    server.start();
    return server;
  }
}
