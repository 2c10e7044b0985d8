// A foreign ICE agent (Pion) that speaks the lines of `kodectl nat punch --jsonl`.
//
// pion_peer ROLE COUNT [STUN|-] [USER:PASS@HOST:PORT|-] [relay]
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/pion/ice/v2"
)

const connectLimit = 20 * time.Second
const echoLimit = 5 * time.Second

type description struct {
	Ufrag      string   `json:"ufrag"`
	Pwd        string   `json:"pwd"`
	Candidates []string `json:"candidates"`
}

func tell(fields map[string]interface{}) {
	line, _ := json.Marshal(fields)
	fmt.Println(string(line))
}

func failed(err error) {
	tell(map[string]interface{}{"event": "failed", "why": err.Error()})
	os.Exit(1)
}

func check(err error) {
	if err != nil {
		failed(err)
	}
}

func option(number int) string {
	if len(os.Args) > number && os.Args[number] != "-" {
		return os.Args[number]
	}
	return ""
}

func servers() []*ice.URL {
	var urls []*ice.URL
	if stun := option(3); stun != "" {
		url, err := ice.ParseURL("stun:" + stun)
		check(err)
		urls = append(urls, url)
	}
	if turn := option(4); turn != "" {
		at := strings.LastIndex(turn, "@")
		user, password, _ := strings.Cut(turn[:at], ":")
		url, err := ice.ParseURL("turn:" + turn[at+1:] + "?transport=udp")
		check(err)
		url.Username, url.Password = user, password
		urls = append(urls, url)
	}
	return urls
}

func main() {
	controlling := os.Args[1] == "controlling"
	count, err := strconv.Atoi(os.Args[2])
	check(err)
	config := &ice.AgentConfig{
		Urls:             servers(),
		NetworkTypes:     []ice.NetworkType{ice.NetworkTypeUDP4, ice.NetworkTypeUDP6},
		MulticastDNSMode: ice.MulticastDNSModeDisabled,
	}
	if option(5) == "relay" {
		config.CandidateTypes = []ice.CandidateType{ice.CandidateTypeRelay}
	}
	agent, err := ice.NewAgent(config)
	check(err)
	ours := description{Candidates: []string{}}
	gathered := make(chan struct{})
	check(agent.OnCandidate(func(candidate ice.Candidate) {
		if candidate == nil {
			close(gathered)
		} else {
			ours.Candidates = append(ours.Candidates, "candidate:"+candidate.Marshal())
		}
	}))
	check(agent.GatherCandidates())
	<-gathered
	ours.Ufrag, ours.Pwd, err = agent.GetLocalUserCredentials()
	check(err)
	line, _ := json.Marshal(ours)
	fmt.Println(string(line))
	text, err := bufio.NewReader(os.Stdin).ReadString('\n')
	check(err)
	var theirs description
	check(json.Unmarshal([]byte(text), &theirs))
	began := time.Now()
	for _, told := range theirs.Candidates {
		candidate, err := ice.UnmarshalCandidate(strings.TrimPrefix(told, "candidate:"))
		check(err)
		check(agent.AddRemoteCandidate(candidate))
	}
	limit, cancel := context.WithTimeout(context.Background(), connectLimit)
	defer cancel()
	var connection *ice.Conn
	if controlling {
		connection, err = agent.Dial(limit, theirs.Ufrag, theirs.Pwd)
	} else {
		connection, err = agent.Accept(limit, theirs.Ufrag, theirs.Pwd)
	}
	check(err)
	tell(map[string]interface{}{"event": "connected", "ms": time.Since(began).Seconds() * 1000})
	buffer := make([]byte, 1500)
	times := []float64{}
	for number := 0; number < count; number++ {
		check(connection.SetReadDeadline(time.Now().Add(echoLimit)))
		sent := time.Now()
		if controlling {
			_, err = connection.Write([]byte(fmt.Sprintf("ping %d", number)))
			check(err)
		}
		size, err := connection.Read(buffer)
		check(err)
		if !controlling {
			_, err = connection.Write(buffer[:size])
			check(err)
		}
		times = append(times, time.Since(sent).Seconds()*1000)
	}
	sort.Float64s(times)
	tell(map[string]interface{}{"event": "done", "echoed": count, "rtt_ms_median": times[len(times)/2]})
	time.Sleep(200 * time.Millisecond)
	check(agent.Close())
}
