// A consumer of a train in Go, with the standard library only, over the gateway (docs/gateway.md):
//
//	eventwagon gateway app:train --work
//	EVENTWAGON_TRAIN=orders go run consumer.go
//
// Ten events at a time. On SIGTERM it takes no more, and ends once those that it has are settled.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	atATime = 10
	wait    = 5 // seconds for which a request waits for an event, and so the longest that ending takes while idle
)

var (
	url      = env("GATEWAY", "http://127.0.0.1:8080") + "/trains/" + env("EVENTWAGON_TRAIN", "orders") + "/"
	key      = os.Getenv("GATEWAY_KEY") // from `eventwagon gateway --new-key`, with work = true
	lease, _ = strconv.ParseFloat(env("LEASE", "30"), 64)
	client   = http.Client{Timeout: time.Minute}
	leaving  atomic.Bool
	trouble  atomic.Bool
	isWrong  atomic.Bool // a receive was refused
)

type delivery struct {
	Receipt string `json:"receipt"`
	Channel string `json:"channel"`
	Event   struct {
		ID   string          `json:"id"`
		Data json.RawMessage `json:"data"`
	} `json:"event"`
}

type emit struct {
	Channel string          `json:"channel"`
	Data    json.RawMessage `json:"data"`
}

type fields map[string]any

type said struct {
	Deliveries []delivery `json:"deliveries"`
	Receipts   []struct {
		Error string `json:"error"`
	} `json:"receipts"`
}

// Your code: may be called again with the same event ID. After an error the train's attempts decide.
func handle(d delivery) ([]emit, error) {
	var order struct {
		ID *int `json:"id"`
	}
	if err := json.Unmarshal(d.Event.Data, &order); err != nil || order.ID == nil {
		return nil, fmt.Errorf("no order: %s", d.Event.Data)
	}
	if d.Channel == "ship" {
		fmt.Printf("shipped %d\n", *order.ID)
		return nil, nil
	}
	return []emit{{"ship", d.Event.Data}}, nil
}

// refused: what was sent is wrong, and sending it again would not help.
type refused struct{ error }

// post sends until there is an answer, or it is refused. All of these requests may be repeated.
func post(verb string, body any) (answer said, err error) {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err = try(verb, body, &answer)
		if _, ok := err.(refused); err == nil || ok {
			tell(nil)
			return answer, err
		}
		tell(err)
		if leaving.Load() {
			return said{}, nil // its lease runs out, and another consumer gets it
		}
		time.Sleep(pause)
	}
}

// tell logs when trouble begins, which all requests meet, and when it is over.
func tell(err error) {
	if begins := err != nil; trouble.Swap(begins) != begins {
		if begins {
			log.Printf("%v; trying again until there is an answer", err)
		} else {
			log.Printf("%s answers", url)
		}
	}
}

func try(verb string, body any, answer *said) error {
	document, err := json.Marshal(body)
	if err != nil {
		return refused{err}
	}
	request, err := http.NewRequest("POST", url+verb, bytes.NewReader(document))
	if err != nil {
		log.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	if key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return err
	case response.StatusCode == 200:
		return json.Unmarshal(text, answer)
	case response.StatusCode < 500 && response.StatusCode != 408 && response.StatusCode != 429:
		return refused{fmt.Errorf("%s: %s %s", verb, response.Status, text)}
	}
	return fmt.Errorf("%s %s", response.Status, text)
}

// say tells the gateway what became of a delivery, or that it goes on.
func say(verb string, d delivery, more fields) error {
	item := fields{"receipt": d.Receipt}
	for name, value := range more {
		item[name] = value
	}
	answer, err := post(verb, fields{"receipts": []fields{item}})
	if err != nil {
		return err
	}
	if len(answer.Receipts) == 1 && answer.Receipts[0].Error != "" {
		return errors.New(answer.Receipts[0].Error)
	}
	return nil
}

func work(d delivery) {
	handled := make(chan struct{})
	go func() {
		for {
			select {
			case <-handled:
				return
			case <-time.After(time.Duration(lease / 3 * float64(time.Second))):
				_ = say("extend", d, nil) // refused: its lease runs out
			}
		}
	}()
	emits, err := handle(d)
	if err == nil {
		err = say("settle", d, fields{"emit": append([]emit{}, emits...)}) // only now it is handled
	}
	close(handled)
	if err != nil { // of the handler, or settling was refused: too many emits, or too large
		log.Printf("%s: %v", d.Event.ID, err)
		reason := []rune(err.Error()) // by characters: half of one would be refused
		if err := say("fail", d, fields{"reason": string(reason[:min(len(reason), 500)])}); err != nil {
			log.Printf("%s: %v", d.Event.ID, err) // its lease runs out
		}
	}
}

func consume() {
	for !leaving.Load() {
		answer, err := post("receive", fields{"limit": 1, "wait": wait, "lease": lease})
		if err != nil { // a wrong key or train: nothing more can be received, what is in hand is finished
			log.Print(err)
			isWrong.Store(true)
			leaving.Store(true)
		}
		for _, d := range answer.Deliveries {
			work(d)
		}
	}
}

func env(name, otherwise string) string {
	if value, ok := os.LookupEnv(name); ok {
		return value
	}
	return otherwise
}

func main() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		leaving.Store(true)
	}()
	fmt.Println("serving", env("EVENTWAGON_TRAIN", "orders"))
	var all sync.WaitGroup
	for range atATime {
		all.Add(1)
		go func() {
			defer all.Done()
			consume()
		}()
	}
	all.Wait()
	if isWrong.Load() {
		os.Exit(1)
	}
}
