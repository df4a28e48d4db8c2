import java.io.*;
import java.nio.*;
import java.nio.channels.*;
import java.nio.file.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.zip.CRC32;

/** Threads, files, mappings, locks, processes, sockets, garbage collection: prints what does not depend on time. */
public class Work {
    public static void main(String[] arguments) throws Exception {
        Path top = Files.createDirectories(Path.of(arguments[0]));
        files(top);
        mapping(top);
        threads(top);
        processes();
        sockets();
        memory();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("shutdown hook")));
        System.exit(21);
    }

    static void files(Path top) throws Exception {
        Path file = top.resolve("file");
        try (FileChannel c = FileChannel.open(file, StandardOpenOption.CREATE, StandardOpenOption.WRITE, StandardOpenOption.READ)) {
            for (int i = 0; i < 200; i++) {
                c.write(ByteBuffer.wrap(("line " + i + "\n").getBytes()));
                if (i % 50 == 0) c.force(i % 100 == 0);
            }
            c.write(ByteBuffer.wrap("inserted".getBytes()), 100);
            try (FileLock lock = c.lock()) {
                System.out.println("locked " + lock.isValid() + ", size " + c.size());
            }
            c.truncate(1000);
        }
        Files.move(file, top.resolve("moved"), StandardCopyOption.ATOMIC_MOVE);
        Files.copy(top.resolve("moved"), top.resolve("copy"));
        Files.createSymbolicLink(top.resolve("link"), Path.of("copy"));
        try (RandomAccessFile f = new RandomAccessFile(top.resolve("random").toFile(), "rwd")) {
            f.setLength(5000);
            f.seek(4000);
            f.writeUTF("at 4000");
        }
        try { Files.newInputStream(top.resolve("missing")); } catch (NoSuchFileException e) { System.out.println("missing: " + e.getClass().getSimpleName()); }
        try { Files.createDirectory(top.resolve("copy")); } catch (FileAlreadyExistsException e) { System.out.println("exists"); }
        TreeMap<String, Long> sizes = new TreeMap<>();
        try (DirectoryStream<Path> d = Files.newDirectoryStream(top)) {
            for (Path p : d) sizes.put(p.getFileName().toString(), Files.size(p));
        }
        System.out.println(sizes);
    }

    static void mapping(Path top) throws Exception {
        try (FileChannel c = FileChannel.open(top.resolve("mapped"), StandardOpenOption.CREATE, StandardOpenOption.WRITE, StandardOpenOption.READ)) {
            MappedByteBuffer m = c.map(FileChannel.MapMode.READ_WRITE, 0, 1 << 20);
            for (int i = 0; i < m.capacity() / 8; i++) m.putLong(i * 8, i * 0x9E3779B97F4A7C15L);
            m.force();
        }
        CRC32 crc = new CRC32();
        crc.update(Files.readAllBytes(top.resolve("mapped")));
        System.out.println("mapped " + Long.toHexString(crc.getValue()));
    }

    static void threads(Path top) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(16);
        List<Future<Long>> all = new ArrayList<>();
        for (int t = 0; t < 64; t++) {
            final int id = t;
            all.add(pool.submit(() -> {
                Path p = top.resolve("thread" + id % 8);
                synchronized (Work.class) { Files.writeString(p, id + "\n", StandardOpenOption.CREATE, StandardOpenOption.APPEND); }
                Thread.sleep(2);
                long h = id;
                for (int i = 0; i < 100000; i++) h = h * 31 + i;
                return h;
            }));
        }
        long sum = 0;
        for (Future<Long> f : all) sum += f.get();
        pool.shutdown();
        System.out.println("threads " + sum + " " + pool.awaitTermination(10, TimeUnit.SECONDS));
        Thread sleeper = new Thread(() -> { try { Thread.sleep(60000); } catch (InterruptedException e) { System.out.println("interrupted"); } });
        sleeper.start();
        sleeper.interrupt();
        sleeper.join();
        try { ((Object) null).hashCode(); } catch (NullPointerException e) { System.out.println("null pointer"); }
        try { deep(0); } catch (StackOverflowError e) { System.out.println("stack overflow"); }
    }

    static int deep(int n) { return deep(n + 1) + 1; }

    static void processes() throws Exception {
        Process p = new ProcessBuilder("sh", "-c", "read x; echo child got $x; echo error >&2; exit 5").redirectErrorStream(true).start();
        try (Writer w = p.outputWriter()) { w.write("input\n"); }
        System.out.println(new String(p.getInputStream().readAllBytes()).trim() + " " + p.waitFor());
        for (int i = 0; i < 10; i++) if (new ProcessBuilder("true").start().waitFor() != 0) System.out.println("wrong");
        Process sleep = new ProcessBuilder("sleep", "60").start();
        sleep.destroyForcibly();
        System.out.println("destroyed " + sleep.waitFor());
    }

    static void sockets() throws Exception {
        try (java.net.ServerSocket server = new java.net.ServerSocket(0, 5, java.net.InetAddress.getLoopbackAddress())) {
            Thread echo = new Thread(() -> {
                try (java.net.Socket s = server.accept()) { s.getInputStream().transferTo(s.getOutputStream()); } catch (IOException e) { System.out.println(e); }
            });
            echo.start();
            try (java.net.Socket s = new java.net.Socket(server.getInetAddress(), server.getLocalPort())) {
                s.getOutputStream().write("through a socket".getBytes());
                s.shutdownOutput();
                System.out.println(new String(s.getInputStream().readAllBytes()));
            }
            echo.join();
        }
    }

    static void memory() {
        long n = 0;
        for (int i = 0; i < 300; i++) { byte[] b = new byte[1 << 20]; b[i] = 1; n += b[i]; }
        System.gc();
        System.out.println("allocated " + n);
    }
}
